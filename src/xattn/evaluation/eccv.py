"""ECCV Caption and CxC on a split of COCO."""

import torch

from xattn.data.split import Split, split_file
from xattn.metrics.eccv import TopRanked, coco_image_ids, eccv_metrics, eccv_report
from xattn.runtime.errors import InputError


class EccvJudge:
    """ECCV Caption and CxC for a split, refused at once where they cannot be measured."""

    def __init__(self, split: Split) -> None:
        ids = split_file(split.folder, split.name, "caption_ids.txt")
        if split.caption_ids is None:
            raise InputError(
                f"{ids}: the file is missing; ECCV Caption needs COCO's id of each caption, which `xattn prepare` "
                "writes"
            )
        self.split, self.caption_ids, self.metrics = split, split.caption_ids, eccv_metrics()
        try:
            self.image_ids = coco_image_ids(self.caption_ids, torch.from_numpy(split.caption_image), self.metrics)
        except InputError as error:
            raise InputError(f"{ids}: {error}") from error

    def ranked(self) -> TopRanked:
        """An empty list of what ranks first, to which scores are added as they are computed."""
        return TopRanked(self.split.n_images, self.split.n_captions)

    def report(self, ranked: TopRanked) -> dict[str, dict[str, float]]:
        """The figures of ECCV Caption and CxC, in percent, from what ranks first."""
        return eccv_report(ranked, self.image_ids, self.caption_ids, self.metrics)
