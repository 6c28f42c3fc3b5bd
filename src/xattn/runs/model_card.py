"""The page that a shared run shows of itself, written from its own files."""

import html
import re
from typing import Any

from xattn.runs.folder import ABOUT, BEST, LOG, Run, run_file
from xattn.runs.listing import best_numbers, read_log
from xattn.runs.presets import DESCRIPTIONS
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import read_object
from xattn.runtime.jsonl import is_whole
from xattn.runtime.printable import printable


def model_card(run: Run) -> str:
    """A model card in Markdown, with the header that model hubs read: what was trained, on how much, how, and its
    development numbers; or from which checkpoint it was imported.

    What the files say is escaped, so that none of it becomes markup. Nothing in it is known from anywhere but the run
    folder; the data are not named, as a folder's name says nothing elsewhere.

    Raises:
        InputError: a file of the folder is missing or malformed.
    """
    about = _about(run)
    header = [
        "---",
        "library_name: xattn",
        "tags:",
        "- image-text-matching",
        "- cross-modal-attention",
        f"- {run.config.model.name}",
        "---",
    ]
    return (
        "\n".join(
            [*header, "", f"# {escaped(run.name)}", "", *_what(run, about), "", *_numbers(run, about), "", *_use(run)]
        )
        + "\n"
    )


def _what(run: Run, about: dict[str, Any]) -> list[str]:
    described = escaped(DESCRIPTIONS.get(run.config.preset, run.config.model.name))
    sizes = f"features of size {run.feature_size}; the vocabulary has {len(run.vocabulary)} words"
    versions = f"by xattn {escaped(about['xattn'])} with PyTorch {escaped(about['torch'])}"
    if "imported" in about:
        imported = about["imported"]
        return [
            f"{described}. Imported {versions} from the checkpoint {escaped(imported['file'])}, of epoch "
            f"{escaped(imported['epoch'])}, with a best rsum of {escaped(imported['best_rsum'])} by its own account; "
            f"xattn has not trained it. Its regions have {sizes}. `config.json` holds its settings by their names in "
            "xattn, `run.json` those that it came with."
        ]
    return [
        f"{described}. Trained {versions}, for {run.config.epochs} epochs from seed {run.config.seed}, on "
        f"{about['images']} images and {about['captions']} captions, whose regions have {sizes}. `config.json` holds "
        "every setting, `log.jsonl` every epoch."
    ]


def _numbers(run: Run, about: dict[str, Any]) -> list[str]:
    log = read_log(run_file(run.folder, LOG))
    chosen = {"last epoch": best_numbers(log[-1:]), "best epoch": best_numbers(log)}
    rows = [
        f"| {name} ({found.epoch}) | {found.image_to_text_r1:.1f} | {found.text_to_image_r1:.1f} | {found.rsum:.1f} |"
        for name, found in chosen.items()
        if found is not None
    ]
    if "imported" in about:
        return ["A checkpoint has no log of its training, so that there are no numbers."]
    if not rows:
        return ["The training data had no development split, so that there are no numbers."]
    return [
        "On the development split of its data, in percent, rsum being the sum of R@1, 5 and 10 in both directions:",
        "",
        "| weights | R@1 image to text | R@1 text to image | rsum |",
        "|---|---|---|---|",
        *rows,
        "",
        "The best epoch was chosen by these very numbers, which flatters it.",
    ]


def _use(run: Run) -> list[str]:
    best = ', which="best"' if (run.folder / BEST).is_file() else ""
    return [
        "```python",
        "from xattn.runs.hub import SharedRun",
        "",
        f'run = SharedRun.from_pretrained("owner/name"{best}).run',
        "```",
    ]


def _about(run: Run) -> dict[str, Any]:
    """What `run.json` says: versions, and what the run was trained on or imported from."""
    path = run_file(run.folder, ABOUT)
    about = read_object(path, "what a run was trained on or imported from", 1 << 20)
    imported = about.get("imported", {})
    holders = (about, ("xattn", "torch")), (imported, ("file", "epoch", "best_rsum") if "imported" in about else ())
    missing = [name for holder, names in holders for name in names if not _is_single(holder, name)]
    if "imported" not in about:
        missing += [name for name in ("images", "captions") if not is_whole(about.get(name))]
    if missing:
        raise InputError(f"{path}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing or malformed")
    return about


def _is_single(holder: object, name: str) -> bool:
    """Whether an object holds text, a number or nothing under a name."""
    return isinstance(holder, dict) and name in holder and not isinstance(holder[name], (dict, list))


_LONGEST = 200


def escaped(value: object) -> str:
    r"""A value from a file as it may stand in Markdown: on one line, without HTML, links, tables, code or emphasis.

    Example:
        >>> print(escaped("# a|b <img src=x>\n\n## c"))
        \# a\|b &lt;img src=x&gt;\\n\\n\#\# c
    """
    text = html.escape(printable(value)[:_LONGEST], quote=False)
    return re.sub(r"([\\`*_\[\]#|~$])", r"\\\1", text)
