"""How well sentences fit a picture: from an image file to scores, with a trained run."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Num

from xattn.data.batches import ImageBatch
from xattn.data.prepare.box_file import boxes_inside, read_boxes
from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0, efficientnet_identity, identity_of
from xattn.data.prepare.features.extract import image_features
from xattn.data.prepare.features.images import image_size
from xattn.data.prepare.features.patches import patch_boxes, patch_grid
from xattn.data.prepare.features.windows import windows
from xattn.data.prepare.options import RegionSource
from xattn.data.tokenizer import tokenize
from xattn.evaluation.encode import encode_captions
from xattn.models.base import evaluating
from xattn.runs.folder import Run, load_run
from xattn.runs.prior import with_prior
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError, InputWarning


@dataclass(frozen=True)
class Scored:
    """A sentence and how well it fits an image; printed, it is a line of a ranked list."""

    sentence: str
    score: float
    """On the run's own scale, and comparable only with other scores of that run."""
    unknown: tuple[str, ...] = ()
    """The words of the sentence that the run's vocabulary does not hold, each once; the model reads them as `<unk>`."""

    def __str__(self) -> str:
        return f"{self.score:7.4f}  {self.sentence}{unknown_note(self.unknown)}"


def score_image(
    run: Run | Path | str,
    image: Path | str,
    sentences: Sequence[str] | str,
    *,
    boxes: Num[np.ndarray, "regions 4"] | Path | str | None = None,
    backbone: Backbone | None = None,
    prior: float | None = None,
    prior_area: float | None = None,
    regions: RegionSource = "windows",
) -> list[Scored]:
    """Score sentences for a picture, the best first; of equal scores the one that was given first.

    The picture becomes regions as `xattn prepare photos` makes them. Its features come in full precision, where a data
    folder may hold them in half, so the score of a picture that is in a folder agrees with the one there to about three
    digits.

    Args:
        run: a loaded run, or its folder. It should have been trained on features from the same backbone and boxes of
            the same kind.
        image: the file of the picture.
        sentences: one or several.
        boxes: x1, y1, x2, y2 of the regions in pixels of the upright picture, or a JSONL file in the form that `xattn
            regions` takes, which names the picture by its file's name or by the end of its path; by default the 36
            windows. Scores in the file are the prior of a run that has one; windows, and boxes without scores, have
            none.
        backbone: what makes the features; by default `EfficientNetLite0()`. A run trained on `xattn scenes`, which are
            seen at another size, needs `EfficientNetLite0(size=xattn.data.prepare.scenes.scenes.NETWORK_SIZE)`.
        prior: the power of the regions' scores that words' attention takes as its prior, in place of the run's own.
        prior_area: the power of the regions' areas in that prior, in place of the run's own.
        regions: what they are without boxes: `windows`, or the `patches` of the backbone.

    Raises:
        InputError: the run or the image cannot be used, a box is not inside the image, a sentence has no words, the
            prior cannot be taken, the backbone has no patches where these are asked for, or the run was trained on
            features of another size than the backbone's.
    """
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    if not sentences:
        raise InputError("expected at least one sentence to score, found none")
    run = run if isinstance(run, Run) else load_run(Path(run), best_device())
    (run,) = with_prior([run], prior, prior_area)
    check_same_backbone(run, backbone)
    captions = run.encoded(sentences)
    captions.warn()
    seen = picture_regions(Path(image), boxes, backbone, regions)
    if run.model.prior_power and seen.scores is None:
        said = f"{image}: its regions have no scores, so the prior of the model's attention is uniform"
        warnings.warn(said, InputWarning, stacklevel=2)
    with evaluating(run.model), torch.no_grad():
        images = run.model.encode_images(*seen.to(next(run.model.parameters()).device))
        scores = run.model.score(images, encode_captions(run.model, captions))[0].tolist()
    scored = [
        Scored(sentence, score, run.unknown_words(tokenize(sentence)))
        for sentence, score in zip(sentences, scores, strict=True)
    ]
    return sorted(scored, key=lambda each: -each.score)


def picture_regions(
    image: Path,
    boxes: Num[np.ndarray, "regions 4"] | Path | str | None = None,
    backbone: Backbone | None = None,
    regions: RegionSource = "windows",
) -> ImageBatch:
    """The regions of one picture as a batch of one image, as models take it; see `score_image` for the arguments."""
    if regions == "patches" and boxes is not None:
        raise InputError("regions are patches, or have boxes of their own; give one of the two")
    grid = patch_grid(backbone) if regions == "patches" else None
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", module=r"PIL\."
        )  # an oddity in an image's metadata is no concern of the reader's
        width, height = image_size(image)
        scores = None
        if boxes is not None:
            pixels, scores = _given_boxes(boxes, image, width, height)
        else:
            pixels = windows(width, height) if grid is None else patch_boxes(width, height, *grid)
        features = image_features(image, pixels, backbone or EfficientNetLite0())
    relative = pixels / np.array([width, height] * 2, dtype=np.float32)
    return ImageBatch(
        torch.from_numpy(features)[None],
        torch.tensor([len(pixels)]),
        torch.from_numpy(relative)[None],
        None if scores is None else torch.from_numpy(scores)[None],
    )


def unknown_note(words: Sequence[str]) -> str:
    """What stands behind a sentence of which some words are unknown; nothing if all are known."""
    return f"  (not in the vocabulary: {', '.join(words)})" if words else ""


def check_same_backbone(run: Run, backbone: Backbone | None) -> None:
    """Raise `InputError` unless a backbone makes features of the size that a run was trained on; that they are of
    another kind, as far as the run knows, is told as a warning.
    """
    name = EfficientNetLite0.__name__ if backbone is None else type(backbone).__name__
    size = EfficientNetLite0.feature_size if backbone is None else backbone.feature_size
    if size != run.feature_size:
        raise InputError(
            f"{run.folder}: was trained on features of size {run.feature_size}, but {name} makes features of size "
            f"{size} of a picture; give the backbone that made the run's features (--backbone, --region-view), or "
            "search the data folder of this one with `xattn search`"
        )
    seen_by = efficientnet_identity() if backbone is None else identity_of(backbone)
    if run.seen_by not in (None, seen_by):
        said = f"was trained on features of {run.seen_by}, and the photo is seen by {seen_by}"
        options = "--backbone, --size, --region-view, --crop-size and --crop-margin are to be those of the run's data"
        warnings.warn(f"{run.folder}: {said}; {options}", InputWarning, stacklevel=3)


def _given_boxes(
    boxes: Num[np.ndarray, "regions 4"] | Path | str, image: Path, width: int, height: int
) -> tuple[Float32[np.ndarray, "regions 4"], Float32[np.ndarray, "regions"] | None]:
    """The boxes inside the picture, and their scores where the file has them."""
    if isinstance(boxes, np.ndarray):
        if not len(boxes) or not np.isfinite(boxes).all():
            raise InputError("boxes: expected at least one box, of finite numbers x1, y1, x2, y2")
        return boxes_inside(boxes.astype(np.float64), width, height, "boxes", image.name), None
    given = read_boxes(Path(boxes), [])
    parts = image.absolute().parts
    names = [name for name in given if parts[-len(Path(name).parts) :] == Path(name).parts]
    if not names:
        raise InputError(f"{boxes}: has no boxes for {image.name}")
    name = max(names, key=lambda name: len(Path(name).parts))
    found = given[name]
    return boxes_inside(found.boxes, width, height, f"{boxes}, line {found.line}", name), found.scores
