"""`xattn attend`: draw attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from xattn.cli.printing import print_line
from xattn.data.prepare.options import RegionSource, RegionView
from xattn.runtime import atomic
from xattn.runtime.errors import InputError

if TYPE_CHECKING:
    from xattn.evaluation.attended_caption import AttendedCaption


@dataclass(frozen=True)
class Attend:
    """Show what each word of a caption attends to on its picture, for one run or two: a caption of a data folder, or
    any photo with a sentence.

    xattn attend RUN [RUN] --data FOLDER --out attention.png

    xattn attend RUN [RUN] photo.jpg "a sentence" --out attention.png

    xattn attend transformers:MODEL --data FOLDER --head 11.3 --out attention.png
    """

    given: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN] [PHOTO SENTENCE]")]
    """One run folder, or two to compare. Without --data a photo's file and a sentence in quotes follow."""
    data: Path | None = None
    """The data folder."""
    out: Path | None = None
    """The PNG file to write. Without --out and --json, each word's largest weight and its region are printed."""
    json: Path | None = None
    """Write all weights here, with the boxes of the regions and the scores."""
    split: str = "test"
    """With --data: which of its splits."""
    caption: int | None = None
    """With --data: which caption, a row of the split's captions file from 0; by default the first that has truth."""
    words: Literal["content", "all"] = "content"
    """Draw content words only, or all."""
    images: Path | None = None
    """With --data: the folder where the image files are now, if they have moved since the data folder was made."""
    backbone: str | None = None
    """Of a photo: what made the features of the run's data, if it was not EfficientNet-Lite0, as `xattn prepare photos`
    takes it: timm:MODEL or transformers:MODEL (or a folder)."""
    size: int | None = None
    """Of a photo: its --size there, in pixels."""
    regions: RegionSource = "windows"
    """Of a photo: what the regions are without --boxes: windows, or the patches of the backbone."""
    region_view: RegionView = "map"
    """Of a photo: the --region-view of the run's data, as `xattn prepare photos` takes it."""
    crop_size: int | None = None
    """Of a photo: its --crop-size there, in pixels."""
    crop_margin: float | None = None
    """Of a photo: its --crop-margin there."""
    boxes: Path | None = None
    """Of a photo: JSONL with the boxes of its regions, as `xattn prepare photos --boxes` takes it, in place of
    windows."""
    head: str | None = None
    """Of a model of transformers: which layer and head, such as 11.3, or 11.mean for the mean of a layer's heads;
    `xattn evaluate` finds the best one."""
    prior: float | None = None
    """Draw with this power of the regions' scores as the prior of the words' attention, whatever the runs were trained
    with; 0: with none."""
    prior_area: float | None = None
    """Draw with this power of the regions' areas in that prior, whatever the runs were trained with."""

    def run(self) -> None:
        """Call `xattn.evaluation.attend.attended_caption` or `attended_photo`, and `draw`."""
        self._check()
        from xattn.data.prepare.features.by_name import viewing_backbone
        from xattn.evaluation.attend import attended_caption, attended_photo, check_picture, draw, summary
        from xattn.evaluation.foreign.loading import foreign_name

        if self.out is not None:
            check_picture(self.out, self.words)
        names = [foreign_name(each) for each in self.given]
        if any(names):
            found = self._of_foreign(names)
        elif self.head is not None:
            raise InputError("--head belongs to transformers:MODEL; a run of xattn has one head in each direction")
        elif self.data is not None:
            found = attended_caption(
                self.given,
                self.data,
                self.split,
                self.caption,
                images=self.images,
                prior=self.prior,
                prior_area=self.prior_area,
            )
        else:
            *runs, photo, sentence = self.given
            backbone = viewing_backbone(self.backbone, self.size, self.region_view, self.crop_size, self.crop_margin)
            found = attended_photo(
                runs,
                photo,
                sentence,
                boxes=self.boxes,
                backbone=backbone,
                regions=self.regions,
                prior=self.prior,
                prior_area=self.prior_area,
            )
        if self.out is not None:
            print_line(draw(found, self.out, self.words, None if found.has_patches else 0.5))
        if self.json is not None:
            atomic.write_json(found.as_json(), self.json)
            print_line(self.json)
        if self.out is None and self.json is None:
            for line in summary(found):
                print_line(line)

    def _of_foreign(self, names: "Sequence[str | None]") -> "AttendedCaption":
        from xattn.evaluation.foreign.caption import foreign_caption

        name = names[0]
        if len(names) > 1 or name is None or self.data is None:
            raise InputError("attend takes a model of transformers alone, with a caption of --data")
        if self.head is None:
            raise InputError(
                "attend needs --head, the layer and the head to show, such as 11.3; `xattn evaluate "
                f"transformers:{name} --data {self.data}` finds the best one"
            )
        if self.prior is not None or self.prior_area is not None:
            raise InputError("--prior belongs to runs of xattn")
        return foreign_caption(name, self.data, self.split, self.caption, self.head, self.images)

    def _check(self) -> None:
        of_photo = {"backbone": self.backbone, "size": self.size, "boxes": self.boxes}
        of_photo["region-view"] = None if self.region_view == "map" else self.region_view
        of_photo |= {"crop-size": self.crop_size, "crop-margin": self.crop_margin}
        of_data = {"caption": self.caption, "images": self.images}
        other = of_data if self.data is None else of_photo
        wrong = [f"--{name}" for name, value in other.items() if value is not None]
        if self.data is None and len(self.given) < 3:
            raise InputError(
                "attend needs a run and --data, or a run, a photo and a sentence, such as "
                '`xattn attend RUN photo.jpg "a sentence"`'
            )
        if wrong:
            kind = "a caption of --data" if self.data is None else "a photo, whose regions are not those of --data"
            raise InputError(f"{wrong[0]} belongs to {kind}")
