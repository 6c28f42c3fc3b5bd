"""`xattn train`: train a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from xattn.commands.printing import EpochPrinter
from xattn.configuration import RunConfig
from xattn.presets import Settings, preset


@dataclass(frozen=True)
class Train:
    """Train a model on a data folder and write a run folder. Every field of the configuration is a flag; --preset sets their defaults."""

    data: Path
    """A data folder with train and, if there is one, dev: written by `xattn scenes` or `xattn regions`, or published features."""
    out: Path
    """The run folder to write: configuration, vocabulary, weights and log."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    settings: Settings = "small"
    """Which of the preset's settings: the papers' for Flickr30K or COCO, or one for small data and a processor."""
    vocabulary: Path | None = None
    """A vocabulary in the published JSON format; by default one is built from the captions."""

    def run(self) -> None:
        """Call `xattn.training.train`."""
        from xattn.training import train

        folder = train(self.config, self.data, self.out, self.vocabulary, on_epoch=EpochPrinter(self.config.epochs))
        print(f"{folder}: the run is complete; measure it with `xattn evaluate {folder} --data {self.data} --split test`")


def preset_defaults(arguments: list[str]) -> Any:
    """The preset decides the defaults of all other flags, and so is looked for before they are parsed."""
    chosen = {"--preset": "scan-t2i-avg", "--settings": "small"}
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in chosen and (equals or place + 1 < len(arguments)):
            chosen[name] = value if equals else arguments[place + 1]
    settings = chosen["--settings"]
    config = preset(chosen["--preset"], settings if settings in ("small", "f30k", "coco") else "small")  # pyright: ignore[reportArgumentType]
    # Not by its constructor, which may check types: data and out have no value yet.
    default = object.__new__(Train)
    vars(default).update(data=tyro.MISSING, out=tyro.MISSING, config=config, settings="small", vocabulary=None)
    return default
