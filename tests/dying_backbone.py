"""A backbone whose process is killed in the middle, once, and one with a mistake."""

import os
import signal
from pathlib import Path

import torch


class DyingBackbone:
    """The mean colour of a box. The first process to be at its call number `calls` is killed, if there is a `mark`,
    which is there then.
    """

    feature_size = 3

    def __init__(self, mark=None, calls=2):
        self.mark, self.left = mark, calls

    def region_features(self, image, boxes):
        self.left -= 1
        if self.left == 0 and self.mark is not None and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        corners = boxes.long().tolist()
        return torch.stack([image[:, y1 : y2 + 1, x1 : x2 + 1].mean((1, 2)) for x1, y1, x2, y2 in corners])


class BrokenBackbone(DyingBackbone):
    """Fails at every picture."""

    def region_features(self, image, boxes):
        return self.left / 0
