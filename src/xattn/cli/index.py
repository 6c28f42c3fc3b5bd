"""`xattn index`: an index of one's own photos, which grows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from xattn.cli.printing import print_line, print_lines
from xattn.data.prepare.options import RegionSource, RegionView
from xattn.runtime import atomic

IndexFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INDEX")]


@dataclass(frozen=True)
class Create:
    """Make an index without photos. It holds a copy of the run, so it can be moved with nothing else.

    The options say how photos become regions, and must be those with which the run's data was made.
    """

    index: IndexFolder
    """The folder to write."""
    run_folder: Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]
    """The run whose model encodes the photos."""
    backbone: str | None = None
    """What makes the features, in place of EfficientNet-Lite0: timm:MODEL or transformers:MODEL (or a folder)."""
    size: int | None = None
    """How large the backbone sees photos, as `xattn prepare photos` takes it."""
    regions: RegionSource = "windows"
    """What the regions are: windows, or the patches of the backbone."""
    region_view: RegionView = "map"
    """What a region's vector is of, as `xattn prepare photos` takes it."""
    crop_size: int | None = None
    """Of crop and both: how large the backbone sees a region alone, in pixels."""
    crop_margin: float | None = None
    """Of crop and both: by what part of its sides a region is enlarged before it is cut out."""
    n_boxes: int = 36
    """Of windows: how many of the 36 to take of each photo."""

    def run(self) -> None:
        """Call `xattn.index.photo_index.create_index`."""
        from xattn.index.about import FeatureOptions
        from xattn.index.photo_index import create_index

        options = FeatureOptions(
            backbone=self.backbone,
            size=self.size,
            regions=self.regions,
            region_view=self.region_view,
            crop_size=self.crop_size,
            crop_margin=self.crop_margin,
            n_boxes=self.n_boxes,
        )
        made = create_index(self.index, self.run_folder, options)
        print_line(f"{made.folder}: an index for {made.run.name}, without photos yet; add some with `xattn index add`")


@dataclass(frozen=True)
class Add:
    """Add photos, with captions or without, and encode those again that have changed. Interrupted, the same command
    goes on.
    """

    index: IndexFolder
    """The index."""
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")]
    """Photos, and folders of photos, subfolders included."""
    captions: Path | None = None
    """A CSV or JSONL file with the captions of some of them, image and caption, for --text of `xattn search`; image is
    a path within the folder of photos."""
    boxes: Path | None = None
    """JSONL with the boxes of their regions, in place of windows, as `xattn prepare photos` takes it."""
    skip_bad: bool = False
    """Leave photos out that cannot be read, and tell which."""

    def run(self) -> None:
        """Call `xattn.index.adding.add_photos`."""
        from xattn.index.adding import add_photos
        from xattn.index.photo_index import open_index
        from xattn.runtime.device import best_device

        index = open_index(self.index, best_device())
        print_lines(add_photos(index, self.photos, self.captions, self.boxes, self.skip_bad))


@dataclass(frozen=True)
class Update:
    """Look at all photos of the index again, and encode those that have changed. Interrupted, the same command goes
    on.
    """

    index: IndexFolder
    """The index."""
    remove_missing: bool = False
    """Remove photos of which the file is not there any more."""
    skip_bad: bool = False
    """Leave photos as they were that cannot be read any more, and tell which."""

    def run(self) -> None:
        """Call `xattn.index.adding.update_photos`."""
        from xattn.index.adding import update_photos
        from xattn.index.photo_index import open_index
        from xattn.runtime.device import best_device

        print_lines(update_photos(open_index(self.index, best_device()), self.remove_missing, self.skip_bad))


@dataclass(frozen=True)
class Remove:
    """Take photos out of the index; their files are left as they are."""

    index: IndexFolder
    """The index."""
    photos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PHOTOS ...]")] = ()
    """Photos, and folders with all that is in them; they need not be on the disk any more."""
    missing: bool = False
    """Also all photos of which the file is not there any more."""

    def run(self) -> None:
        """Call `xattn.index.removing.remove_photos`."""
        from xattn.index.photo_index import open_index
        from xattn.index.removing import remove_photos

        print_lines(remove_photos(open_index(self.index), self.photos, self.missing))


@dataclass(frozen=True)
class List:
    """List the photos of the index, a line each: file, size, when it was taken, and its first caption."""

    index: IndexFolder
    """The index."""
    where: str | None = None
    """Only photos of which this holds: a condition of SQL on width, height, taken, added, caption and path, such as
    "width > height AND taken >= timestamp '2024-01-01'"."""
    folder: Path | None = None
    """Only photos in this folder, subfolders included."""
    json: Path | None = None
    """Write the same list here."""

    def run(self) -> None:
        """Call `xattn.index.listing.list_photos`."""
        from xattn.index.listing import list_photos
        from xattn.index.photo_index import open_index

        found = list_photos(open_index(self.index), self.where, self.folder)
        for each in found:
            print_line(each)
        if self.json:
            atomic.write_json({"index": str(self.index), "photos": [each.as_json() for each in found]}, self.json)


@dataclass(frozen=True)
class Optimize:
    """Put the index in order after many changes: fewer and larger files, all photos in the engine's own index."""

    index: IndexFolder
    """The index."""
    anew: bool = False
    """Make the cells of the engine's index anew, and not only fill them with what is new; takes minutes."""

    def run(self) -> None:
        """Call `xattn.index.optimizing.optimize_index`."""
        from xattn.index.optimizing import optimize_index
        from xattn.index.photo_index import open_index

        print_lines(optimize_index(open_index(self.index), self.anew))


@dataclass(frozen=True)
class Check:
    """Read all of the index, look at the files of its photos, and measure what searches miss: recall@10 against the
    exact score of every photo.
    """

    index: IndexFolder
    """The index."""
    sentences: Path | None = None
    """A file with sentences to ask, one a line; by default 50 captions of the index."""
    candidates: int | None = None
    """Of how many photos, the best of the first stage, a search takes the score; 1,000 by default."""
    cells: int | None = None
    """How many cells of the engine's index are looked through for each word; 40 by default."""

    def run(self) -> None:
        """Call `xattn.index.checking.check_index`."""
        from xattn.index.checking import check_index
        from xattn.index.photo_index import open_index
        from xattn.index.searching import CANDIDATES, CELLS

        index = open_index(self.index)
        print_lines(check_index(index, self.sentences, self.candidates or CANDIDATES, self.cells or CELLS))


@dataclass(frozen=True)
class Export:
    """Write the index as Parquet files, for engines of other makers: photos, captions, boxes, encoded regions, and the
    vectors of the first stage.
    """

    index: IndexFolder
    """The index."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """The folder to write."""
    shard_rows: int = 20_000
    """How many photos are in a file."""
    precision: Literal["float16", "float32"] = "float16"
    """Of the vectors, which the index has in float16; float32 is for readers that know no other."""

    def run(self) -> None:
        """Call `xattn.index.exporting.export_index`."""
        from xattn.index.exporting import export_index
        from xattn.index.photo_index import open_index

        atomic.check_absent(self.out)  # before a model is loaded
        print_lines(export_index(open_index(self.index), self.out, self.shard_rows, self.precision))


COMMANDS: dict[str, type] = {
    "create": Create,
    "add": Add,
    "update": Update,
    "remove": Remove,
    "list": List,
    "optimize": Optimize,
    "check": Check,
    "export": Export,
}


@dataclass(frozen=True)
class Index:
    """Keep an index of your own photos, for `xattn search INDEX "a sentence"`.

    `xattn index COMMAND --help` explains each command.
    """

    command: Annotated[
        Annotated[Create, tyro.conf.subcommand("create", prefix_name=False)]
        | Annotated[Add, tyro.conf.subcommand("add", prefix_name=False)]
        | Annotated[Update, tyro.conf.subcommand("update", prefix_name=False)]
        | Annotated[Remove, tyro.conf.subcommand("remove", prefix_name=False)]
        | Annotated[List, tyro.conf.subcommand("list", prefix_name=False)]
        | Annotated[Optimize, tyro.conf.subcommand("optimize", prefix_name=False)]
        | Annotated[Check, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[Export, tyro.conf.subcommand("export", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        """Run the command."""
        self.command.run()
