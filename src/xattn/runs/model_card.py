"""The page that a shared run shows of itself, written from its own files."""

from typing import Any

from xattn.runs.folder import ABOUT, BEST, LOG, Run, run_file
from xattn.runs.listing import best_numbers, read_log
from xattn.runs.presets import DESCRIPTIONS
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import read_object


def model_card(run: Run) -> str:
    """A model card in Markdown, with the header that model hubs read: what was trained, on how much, how, and its
    development numbers.

    Nothing in it is known from anywhere but the run folder; the data are not named, as a folder's name says nothing
    elsewhere.

    Raises:
        InputError: a file of the folder is missing or malformed.
    """
    header = [
        "---",
        "library_name: xattn",
        "tags:",
        "- image-text-matching",
        "- cross-modal-attention",
        f"- {run.config.model.name}",
        "---",
    ]
    return "\n".join([*header, "", f"# {run.name}", "", *_what(run), "", *_numbers(run), "", *_use(run)]) + "\n"


def _what(run: Run) -> list[str]:
    about = _about(run)
    described = DESCRIPTIONS.get(run.config.preset, run.config.model.name)
    return [
        f"{described}. Trained by xattn {about['xattn']} with PyTorch {about['torch']}, for {run.config.epochs} epochs "
        "from seed "
        f"{run.config.seed}, on {about['images']} images and {about['captions']} captions, whose regions have features "
        "of size "
        f"{run.feature_size}; the vocabulary has {len(run.vocabulary)} words. `config.json` holds every setting, "
        "`log.jsonl` every epoch."
    ]


def _numbers(run: Run) -> list[str]:
    log = read_log(run_file(run.folder, LOG))
    chosen = {"last epoch": best_numbers(log[-1:]), "best epoch": best_numbers(log)}
    rows = [
        f"| {name} ({found.epoch}) | {found.image_to_text_r1:.1f} | {found.text_to_image_r1:.1f} | {found.rsum:.1f} |"
        for name, found in chosen.items()
        if found is not None
    ]
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
    path = run_file(run.folder, ABOUT)
    about = read_object(path, "what a run was trained on", 1 << 20)
    missing = [name for name in ("xattn", "torch", "images", "captions") if name not in about]
    if missing:
        raise InputError(f"{path}: lacks {' and '.join(missing)}")
    return about
