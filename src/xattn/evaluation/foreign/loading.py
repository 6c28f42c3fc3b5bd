"""A model of transformers by name, with what turns photos and captions into its input."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xattn.integrations.transformers.families import Found, find_family
from xattn.integrations.transformers.naming import chosen_layers
from xattn.runtime.errors import InputError
from xattn.runtime.pretrained import loading

SOURCE = "transformers"
PROMPTED = ("PaliGemma", "Qwen2-VL")
"""The families that read a picture and its caption as one sequence."""
MEASURED = ("BLIP", "LXMERT", "BridgeTower", "ViLT", "FLAVA", *PROMPTED)
"""The families that see a picture; others read text alone."""


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A model that was trained elsewhere."""

    name: str
    """Without `transformers:`."""
    model: nn.Module
    found: Found
    """Its family, and the layers that attend from text to image."""
    tokenizer: Any
    image_processor: Any | None
    """None for a model of regions, which takes those of the data folder."""
    keeps_middle: bool = False
    """Whether the image processor keeps the square in the middle of a photo, and not all of it."""

    @property
    def shift(self) -> int:
        """How many tokens before a token stands the query that is about it: 1 in a model that writes captions, where
        the query at a token predicts the next one; 0 in PaliGemma, which reads what is given before it writes.
        """
        writes = type(self.model).__name__.endswith("ForConditionalGeneration")
        return 1 if writes and self.found.family.name != "PaliGemma" else 0

    @property
    def n_heads(self) -> int:
        """Heads of each of its layers, those of the part that reads the text."""
        config: Any = self.found.root.config
        part = "text_config" if self.found.family.name in PROMPTED else "multimodal_config"
        return getattr(config, part, config).num_attention_heads

    @property
    def label(self) -> str:
        """What a table calls it: the last part of its name."""
        return Path(self.name).name


def foreign_name(given: Path | str) -> str | None:
    """The name of a foreign model, where what was given is one: `transformers:` and a name of the hub or a folder, or a
    folder as transformers writes it.

    A name without `transformers:` is no name of the hub, so that a run folder with a slip is not looked for there.
    """
    library, _, name = str(given).partition(":")
    if library == SOURCE and name:
        return name
    config = Path(given) / "config.json"
    if not config.is_file() or (Path(given) / "model.json").exists():
        return None
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return str(given) if isinstance(content, dict) and "model_type" in content else None


def load_foreign(name: str, device: torch.device) -> ForeignModel:
    """Load a model with its tokenizer and its image processor, to be measured.

    Args:
        name: a folder, or a name of the hub.
        device: where it runs.

    Raises:
        InputError: transformers is not installed, or has no such model; the model attends from no text to a picture;
            its tokenizer does not say where tokens stand; its image
        processor keeps an odd part of a photo.
    """
    with loading(SOURCE, name, SOURCE):
        import transformers

        config = transformers.AutoConfig.from_pretrained(name)
        kinds = [getattr(transformers, kind, None) for kind in config.architectures or ()]
        if not any(kinds):
            raise InputError(
                f"{SOURCE}:{name} cannot be loaded: its config.json names no architecture that transformers "
                f"{transformers.__version__} has, but {config.architectures}"
            )
        with _without_bars(transformers):
            model = next(kind for kind in kinds if kind).from_pretrained(name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    found = find_family(model)
    if found is None:
        chosen_layers(model, None, None)  # which says what it has
    assert found is not None
    if found.family.name not in MEASURED:
        raise InputError(
            f"{SOURCE}:{name} is a {type(model).__name__}: {found.family.name} sees no photo; record "
            "it in a program of your own with xattn.integrations.transformers.capture and measure it with "
            "xattn.AttentionMetrics"
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"{SOURCE}:{name}: its tokenizer {type(tokenizer).__name__} does not say where in a caption a token "
            "stands; a fast one is needed (tokenizer.json)"
        )
    processor, keeps_middle = None, False
    if found.family.name != "LXMERT":
        with loading(SOURCE, name, SOURCE):
            processor = transformers.AutoImageProcessor.from_pretrained(name)
        keeps_middle = _keeps_middle(name, processor)
    return ForeignModel(name, model.eval().to(device), found, tokenizer, processor, keeps_middle)


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Inside, no bar is drawn for weights that are there already; those of a download are the hub's."""
    logging = transformers.utils.logging
    is_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if is_on:
            logging.enable_progress_bar()


def _keeps_middle(name: str, processor: Any) -> bool:
    """Whether an image processor scales the shorter side of a photo and keeps the square in its middle; False where it
    scales all of it.

    Raises:
        InputError: it keeps another part.
    """
    if not getattr(processor, "do_center_crop", False):
        return False
    size, crop = (dict(getattr(processor, each, None) or {}) for each in ("size", "crop_size"))
    scaled, kept = ([each.get(side) for side in ("height", "width")] for each in (size, crop))
    if None not in scaled and scaled == kept:
        return False
    edge = size.get("shortest_edge")
    if edge is not None and (kept == [edge, edge] or (kept == [None, None] and crop.get("shortest_edge") == edge)):
        return True
    raise InputError(
        f"{SOURCE}:{name}: its image processor scales photos to {_plain(size)} and keeps {_plain(crop)} in the middle; "
        "where the patches are is known only if that is all of the photo or its middle square"
    )


def _plain(size: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in size.items() if value is not None}
