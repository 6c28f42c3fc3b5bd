"""`xattn score`: score sentences for a picture."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_line
from xattn.data.prepare.options import RegionSource, RegionView
from xattn.runtime import atomic


@dataclass(frozen=True)
class Score:
    """Score sentences for a picture with a trained run, the best first."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, trained on features of `xattn prepare photos`."""
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """The picture's file."""
    sentences: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SENTENCE [SENTENCE ...]")]
    """The sentences, each in quotes."""
    backbone: str | None = None
    """What made the features of the run's data, if it was not EfficientNet-Lite0, as `xattn prepare photos` takes it:
    timm:MODEL or transformers:MODEL (or a folder)."""
    size: int | None = None
    """Its --size there, in pixels."""
    regions: RegionSource = "windows"
    """What the regions are without --boxes: windows, or the patches of the backbone."""
    region_view: RegionView = "map"
    """The --region-view of the run's data, as `xattn prepare photos` takes it."""
    crop_size: int | None = None
    """Its --crop-size there, in pixels."""
    crop_margin: float | None = None
    """Its --crop-margin there."""
    boxes: Path | None = None
    """JSONL with the boxes of the picture's regions, as `xattn prepare photos --boxes` takes it, in place of
    windows."""
    prior: float | None = None
    """Score with this power of the regions' scores, which --boxes gives, as the prior of the words' attention, whatever
    the run was trained with; 0: with none."""
    prior_area: float | None = None
    """Score with this power of the regions' areas in that prior, whatever the run was trained with."""
    json: Path | None = None
    """Write the same list here."""

    def run(self) -> None:
        """Call `xattn.evaluation.score.score_image`."""
        from xattn.data.prepare.features.by_name import viewing_backbone
        from xattn.evaluation.score import score_image

        scored = score_image(
            self.run_folder,
            self.image,
            self.sentences,
            boxes=self.boxes,
            backbone=viewing_backbone(self.backbone, self.size, self.region_view, self.crop_size, self.crop_margin),
            regions=self.regions,
            prior=self.prior,
            prior_area=self.prior_area,
        )
        for each in scored:
            print_line(each)
        if self.json:
            about = {"run": str(self.run_folder), "image": str(self.image)}
            about |= {"prior": self.prior, "prior_area": self.prior_area}
            atomic.write_json(about | {"scores": [dataclasses.asdict(each) for each in scored]}, self.json)
