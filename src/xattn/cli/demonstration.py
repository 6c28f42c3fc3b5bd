"""The demonstration: scenes, two models from one seed, one table, a few pictures."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xattn.data.prepare.scenes.scenes import write_scenes
from xattn.data.reader import read_split
from xattn.evaluation.attend import attend
from xattn.evaluation.evaluate import evaluate
from xattn.evaluation.result import Evaluation
from xattn.runs.config import ConstraintSet
from xattn.runs.folder import CONSTRAINTS_NAMES
from xattn.runs.presets import preset
from xattn.runtime import atomic
from xattn.runtime.progress import ProgressCallback
from xattn.training.train import EpochCallback, train


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration made and measured."""

    folder: Path
    alone: Evaluation
    constrained: Evaluation
    pictures: list[Path]

    def verdict(self) -> str:
        """One sentence that says what was measured and what came out better and what worse with the constraints."""
        before, after = _headline(self.alone), _headline(self.constrained)
        changes = [
            f"{name} {after[name] - before[name]:+z.{places}f}" for name, places in _HEADLINE.items() if name in before
        ]
        return (
            f"With CCR + CCS against without, from one seed, on the {self.alone.images} images and "
            f"{self.alone.captions} captions of the "
            f"test split: {', '.join(changes)}. This is one seed; `xattn compare` with several seeds tells an "
            "effect from seed noise."
        )


_HEADLINE = {
    "rsum": 1,
    "R@1 image to text": 1,
    "R@1 text to image": 1,
    "attention F1": 3,
    "average precision": 3,
    "pointing": 3,
}


def _headline(evaluation: Evaluation) -> dict[str, float]:
    retrieval = evaluation.retrieval
    numbers = {
        "rsum": retrieval.rsum,
        "R@1 image to text": retrieval.image_to_text.r1,
        "R@1 text to image": retrieval.text_to_image.r1,
    }
    for report in (evaluation.attention or {}).values():
        numbers |= {
            "attention F1": report.f1,
            "average precision": report.average_precision,
            "pointing": report.pointing,
        }
    return numbers


def demonstrate(
    out: Path | str,
    images: int = 1000,
    epochs: int = 8,
    seed: int = 0,
    preset_name: str = "scan-t2i-avg",
    pictures: int = 3,
    on_stage: Callable[[str], object] = lambda what: None,
    on_epoch: EpochCallback | None = None,
    progress: ProgressCallback | None = None,
) -> Demonstration:
    """Render scenes, train a model without and with CCR + CCS from one seed, measure both on the test split and draw a
    few captions.

    Args:
        out: the folder to be written, absent or empty: `scenes`, `alone`, `constrained` and the pictures.
        images: how many scenes.
        epochs: passes over the training captions, for each of the two models.
        seed: of the scenes and of both models.
        preset_name: which model.
        pictures: how many test captions to draw.
        on_stage: called with a few words before each part of the work.
        on_epoch: see `train`.
        progress: see `train`.
    """
    out = Path(out)
    names: dict[str, ConstraintSet] = {"alone": "none", "constrained": "both"}
    config = dataclasses.replace(preset(preset_name), epochs=epochs, seed=seed)
    # Of a single epoch, the constraints act in that one.
    ccr, ccs = (dataclasses.replace(part, from_epoch=min(part.from_epoch, epochs)) for part in (config.ccr, config.ccs))
    with atomic.new_folder(out) as folder:
        data = folder / "scenes"
        on_stage(f"rendering {images} scenes and computing the features of their regions")
        write_scenes(data, n_images=images, seed=seed, progress=progress)
        for name, constraints in names.items():
            on_stage(f"training {preset_name} {CONSTRAINTS_NAMES[constraints]}")
            train(
                dataclasses.replace(config, constraints=constraints, ccr=ccr, ccs=ccs),
                data,
                folder / name,
                on_epoch=on_epoch,
                progress=progress,
            )
        on_stage("measuring both on the test split")
        alone, constrained = (
            # What was evaluated on what will be found under another name as soon as all is complete.
            dataclasses.replace(
                evaluate(folder / name, data, "test", progress=progress), run=str(out / name), data=str(out / "scenes")
            )
            for name in names
        )
        runs = [folder / name for name in names]
        drawn = [
            attend(runs, data, "test", row, folder / f"attention-{row}.png")
            for row in _captions_to_draw(data, pictures)
        ]
    return Demonstration(out, alone, constrained, [out / picture.name for picture in drawn])


def _captions_to_draw(data: Path, pictures: int) -> list[int]:
    """Captions of different images, spread evenly over the split: chosen without a look at how well they come out."""
    split = read_split(data, "test")
    images = np.linspace(0, split.n_images - 1, num=min(pictures, split.n_images), dtype=int)
    return [int(np.flatnonzero(split.caption_image == image)[0]) for image in images]
