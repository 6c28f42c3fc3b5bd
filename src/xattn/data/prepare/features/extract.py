"""Features of many pictures, in order, several at a time."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from xattn.data.prepare.features.backbone import Backbone
from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.features.images import as_tensor, load_image, pixel_count, pixels_in_flight
from xattn.runtime.errors import InputError

ImageFeatures = Float32[np.ndarray, "r feature_size"]
Boxes = Float32[np.ndarray, "r 4"]
Propose = Callable[[Float[Tensor, "3 height width"]], Regions]
"""What finds the regions of an image, as a `Backbone` is given it."""


class RegionFeatures(NamedTuple):
    """The regions of one picture and a vector for each."""

    regions: Regions
    features: ImageFeatures


def image_features(path: Path, boxes: Boxes, backbone: Backbone) -> ImageFeatures:
    """The vectors of the boxes of one picture: `load_image`, then `backbone.region_features`.

    Raises:
        UnreadableImageError: as `load_image`.
        InputError: the backbone gives only zeros, of which no model can learn anything.
        ValueError: the backbone gives a tensor of another shape than boxes by `feature_size`.

    """
    return region_features(path, Regions(boxes), backbone).features


def region_features(path: Path, regions: Regions | Propose, backbone: Backbone) -> RegionFeatures:
    """The regions of one picture, found in it if they are not given, and their vectors; raises as `image_features`, and
    what finds the regions may raise too.
    """
    with pixels_in_flight(pixel_count(path)):
        image = as_tensor(load_image(path))
        regions = regions if isinstance(regions, Regions) else regions(image)
        features = backbone.region_features(image, torch.from_numpy(regions.boxes))
    expected = (len(regions.boxes), backbone.feature_size)
    if tuple(features.shape) != expected:
        raise ValueError(f"the backbone gave features of shape {tuple(features.shape)}, expected {expected}")
    if not features.any():
        raise InputError(f"{path}: {type(backbone).__name__} gives features that are all zero for it")
    return RegionFeatures(regions, features.detach().cpu().float().numpy())


def features_in_order(
    pictures: Iterable[tuple[Path, Regions | Propose]], backbone: Backbone, threads: int = 1
) -> Generator[RegionFeatures, None, None]:
    """`region_features` of each picture, in order, up to `threads` of them at a time.

    With more than one thread each picture is computed by a single one, and PyTorch's own threads are held at one until
    the iterator is closed: whole pictures side by side keep the cores busier than the parts of one small picture do.
    What comes out does not depend on how many, if more than one, work at a time; one alone leaves PyTorch's threads as
    they are, whose number can show in the last digits.
    """
    if threads == 1:
        for path, regions in pictures:
            yield region_features(path, regions, backbone)
        return
    threads_before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[RegionFeatures]] = deque()
    try:
        for path, regions in pictures:
            waiting.append(pool.submit(region_features, path, regions, backbone))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
