"""The commands: parsing only. Each calls one function that a notebook could call."""

import dataclasses
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

import xattn
from xattn import atomic
from xattn.configuration import Precision, RunConfig
from xattn.errors import InputError
from xattn.presets import DEPARTURES, DESCRIPTIONS, Settings, preset


@dataclass(frozen=True)
class Scenes:
    """Render the embedded data set: pictures of shapes with captions, proposal boxes and word-to-box truth, and their features."""

    out: Path
    """The folder to write: a data folder with train, dev and test, with the pictures beside them."""
    images: int = 1000
    """How many scenes, a tenth each for dev and test."""
    seed: int = 0
    """The same seed renders the same scenes."""

    def run(self) -> None:
        """Call `xattn.data.scenes.write_scenes`."""
        from xattn.data.scenes import write_scenes

        print(write_scenes(self.out, n_images=self.images, seed=self.seed))


@dataclass(frozen=True)
class Regions:
    """Turn a folder of captioned images into a data folder: boxes, and EfficientNet-Lite0 features pooled for each box."""

    images: Path
    """The folder of images, subfolders included."""
    captions: Path
    """A CSV or JSONL file with image, caption and, optionally, split; without splits, a tenth each goes to dev and test."""
    out: Path
    """The data folder to write."""
    boxes: Path | None = None
    """JSONL with the boxes of each image, {"image": "a.jpg", "boxes": [[x1, y1, x2, y2], ...]} in pixels, in place of windows."""
    n_boxes: int = 36
    """How many of the 36 multi-scale windows to take of each image; without meaning when --boxes is given."""

    def run(self) -> None:
        """Call `xattn.data.folder.write_regions`."""
        from xattn.data.folder import write_regions

        print(write_regions(self.images, self.captions, self.out, boxes=self.boxes, n_boxes=self.n_boxes))


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

        folder = train(self.config, self.data, self.out, self.vocabulary, on_epoch=_EpochPrinter(self.config.epochs))
        print(f"{folder}: the run is complete; measure it with `xattn evaluate {folder} --data {self.data} --split test`")


@dataclass(frozen=True)
class Evaluate:
    """Measure a run on a split: retrieval in both directions and, where the data has truth, attention against boxes.

    Of several runs, each is measured, and then the ensemble that averages their scores: SGRAF is its sgr and saf, SCAN its t2i and i2t.
    """

    run_folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """The run folder, or several for their ensemble."""
    data: Path
    """The data folder."""
    split: str = "test"
    """Which of its splits."""
    iou: float = 0.5
    """How much a region must overlap an annotated box to be relevant to its words."""
    precision: Precision = "fp32"
    """Of the products of regions with words: bf16 rounds scores to some three digits and is faster on processors that have it."""
    json: Path | None = None
    """Write the same numbers here, by name; of several runs, a list under `runs`, and `ensemble`."""

    def run(self) -> None:
        """Call `xattn.evaluation.evaluate_all`."""
        from xattn.evaluation import evaluate_all
        from xattn.report.tables import print_tables

        if not self.run_folders:
            raise InputError("evaluate needs a run folder")
        evaluations = evaluate_all(self.run_folders, self.data, self.split, self.iou, self.precision)
        print_tables(evaluations)
        if self.json:
            each = [evaluation.as_dict() for evaluation in evaluations]
            _write_json(each[0] if len(each) == 1 else {"runs": each[:-1], "ensemble": each[-1]}, self.json)


@dataclass(frozen=True)
class Attend:
    """Draw what each word of a caption attends to on the picture, for one run or two side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN]")]
    """One run folder, or two to compare."""
    data: Path
    """The data folder."""
    out: Path
    """The PNG file to write."""
    split: str = "test"
    """Which of its splits."""
    caption: int | None = None
    """Which caption, a row of the split's captions file from 0; by default the first that has truth."""
    words: Literal["content", "all"] = "content"
    """Draw content words only, or all."""

    def run(self) -> None:
        """Call `xattn.report.attend.attend`."""
        from xattn.report.attend import attend

        print(attend(self.runs, self.data, self.split, self.caption, self.out, words=self.words))


@dataclass(frozen=True)
class PublishedModel:
    """What a checkpoint's own settings do not tell; what they tell is not given."""

    name: Literal["scan", "bfan", "pfan", "sgraf"] | None = None
    """Which model it is."""
    direction: Literal["t2i", "i2t"] | None = None
    """Of SCAN and PFAN: words attend to regions, or regions to words."""
    aggregation: Literal["mean", "lse", "max", "sum"] | None = None
    """Of SCAN: how the relevances of a pair's queries become its score."""
    focus: Literal["equal", "prob"] | None = None
    """Of BFAN: how much the other keys count when they judge a key."""
    module: Literal["sgr", "saf"] | None = None
    """Of SGRAF: graph reasoning or attention filtration."""
    lambda_softmax: float | None = None
    """Inverse temperature of the attention."""
    lambda_lse: float | None = None
    """Of SCAN with log-sum-exp: its sharpness."""


@dataclass(frozen=True)
class Import:
    """Make a run folder of a published checkpoint of SCAN, BFAN, PFAN or SGRAF. Nothing in the file is executed."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The model_best.pth.tar, written by any PyTorch since 0.3."""
    vocabulary: Path
    """The vocabulary that it was trained with, in the published JSON format."""
    out: Path
    """The run folder to write."""
    model: PublishedModel = field(default_factory=PublishedModel)

    def run(self) -> None:
        """Call `xattn.published.importing.import_checkpoint`."""
        from xattn.published.importing import import_checkpoint, import_summary

        given = {f"model.{name}": value for name, value in dataclasses.asdict(self.model).items() if value is not None}
        name = given.pop("model.name", None)
        folder = import_checkpoint(self.checkpoint, self.vocabulary, self.out, model=name, settings=given)
        print(import_summary(folder))
        print(f"{folder}: the run is complete; measure it with `xattn evaluate {folder} --data DIR --split test`")


@dataclass(frozen=True)
class Score:
    """Score sentences for a picture with a trained run, the best first."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, trained on features of `xattn regions`."""
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """The picture's file."""
    sentences: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SENTENCE [SENTENCE ...]")]
    """The sentences, each in quotes."""
    boxes: Path | None = None
    """JSONL with the boxes of the picture's regions, as `xattn regions --boxes` takes it, in place of windows."""
    json: Path | None = None
    """Write the same list here."""

    def run(self) -> None:
        """Call `xattn.scoring.score_image`."""
        from xattn.scoring import score_image

        scored = score_image(self.run_folder, self.image, self.sentences, boxes=self.boxes)
        print(*scored, sep="\n")
        if self.json:
            about = {"run": str(self.run_folder), "image": str(self.image)}
            _write_json(about | {"scores": [dataclasses.asdict(each) for each in scored]}, self.json)


@dataclass(frozen=True)
class Search:
    """Find the images of a split that fit a sentence best, and draw where its words lie in them."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    sentence: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SENTENCE")]
    """What to look for, in quotes."""
    data: Path
    """The data folder."""
    split: str = "test"
    """Which of its splits."""
    top: int = 10
    """How many images to find."""
    out: Path | None = None
    """The PNG file to write, on which each of them shows what the words of the sentence light up; needs boxes and the image files."""
    json: Path | None = None
    """Write the same list here."""

    def run(self) -> None:
        """Call `xattn.search.search`."""
        from xattn.device import best_device
        from xattn.runs import load_run
        from xattn.scoring import unknown_note, unknown_words
        from xattn.search import search

        run = load_run(self.run_folder, best_device())
        hits = search(run, self.data, self.sentence, self.split, self.top, self.out)
        unknown = unknown_words(self.sentence, run.vocabulary)
        print(f"{self.sentence}{unknown_note(unknown)}", *hits, *([self.out] if self.out else []), sep="\n")
        if self.json:
            about = {"run": str(self.run_folder), "data": str(self.data), "split": self.split, "sentence": self.sentence}
            _write_json(about | {"unknown": unknown, "hits": [dataclasses.asdict(hit) for hit in hits]}, self.json)


@dataclass(frozen=True)
class Demo:
    """Render scenes, train SCAN without and with CCR + CCS, compare them on the test split and draw a few captions, in minutes."""

    out: Path = Path("demo")
    """The folder to write."""
    images: int = 1000
    """How many scenes."""
    epochs: int = 8
    """Passes over the training captions, for each of the two models."""
    seed: int = 0
    """Of the scenes and of both models."""
    json: Path | None = None
    """Write the numbers of both models here, by name."""

    def run(self) -> None:
        """Call `xattn.demo.demonstrate`."""
        from xattn.demo import demonstrate
        from xattn.report.tables import print_tables

        shown = demonstrate(self.out, self.images, self.epochs, self.seed, on_stage=_print_now, on_epoch=_EpochPrinter(self.epochs))
        print_tables([shown.alone, shown.constrained])
        print(shown.verdict())
        for picture in shown.pictures:
            print(picture)
        if self.json:
            _write_json({"alone": shown.alone.as_dict(), "constrained": shown.constrained.as_dict()}, self.json)


@dataclass(frozen=True)
class Presets:
    """List the presets, a line each, and what departs from the papers."""

    def run(self) -> None:
        """Print `xattn.presets.DESCRIPTIONS` and `DEPARTURES`."""
        for name, description in DESCRIPTIONS.items():
            print(f"{name:14}  {description}")
        print("\nWith --settings f30k or coco the rest is as published; --settings small, the default, has dimension 256 and 15 epochs.")
        print("What departs from the papers, and how to bring it back:")
        for departure in DEPARTURES:
            print(f"  {departure}")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a user's mistake is one sentence on stderr and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"xattn {xattn.__version__}")
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        parse(arguments).run()
    except (InputError, OSError) as error:
        # Not all that a file system refuses is foreseen; whatever it is, it is nothing that a stack trace would help with.
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(f"[bold red]xattn:[/] {escape(said)}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("xattn: interrupted; what was half written has been removed", file=sys.stderr)
        raise SystemExit(2) from None


COMMANDS = {
    "scenes": Scenes,
    "regions": Regions,
    "train": Train,
    "evaluate": Evaluate,
    "attend": Attend,
    "import": Import,
    "score": Score,
    "search": Search,
    "demo": Demo,
    "presets": Presets,
}


def parse(arguments: list[str]) -> Any:
    """The command that the arguments name, ready to `run`; leaves with a message and status 2 if they name none."""
    if not arguments or arguments[0] not in COMMANDS:
        # No command: the list of commands, and what is wrong with this one.
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments, prog="xattn", description=xattn.__doc__)
    name, rest = arguments[0], arguments[1:]
    default = {"default": _preset_defaults(rest)} if name == "train" else {}
    try:
        return tyro.cli(COMMANDS[name], args=rest, prog=f"xattn {name}", config=(tyro.conf.AvoidSubcommands,), **default)
    except ValueError as error:  # of a configuration as a whole; those of its parts are told by tyro
        raise InputError(str(error)) from error


def _preset_defaults(arguments: list[str]) -> Any:
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


class _EpochPrinter:
    """Prints a line for each epoch: the loss and its terms for each pair, and the development numbers."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, entry: dict[str, Any]) -> None:
        terms = "  ".join(
            f"{name} {value:.3f}"
            for name, value in entry.items()
            if name.startswith(("loss", "match", "ccr", "ccs")) and "active" not in name
        )
        line = f"epoch {entry['epoch']:2}/{self.epochs}  {terms}"
        if "dev" in entry:
            dev = entry["dev"]
            line += f"  dev R@1 {dev['image_to_text']['r1']:.1f} i2t {dev['text_to_image']['r1']:.1f} t2i  rsum {dev['rsum']:.1f}"
        print(f"{line}  {entry['seconds']:.1f} s", flush=True)


def _print_now(what: str) -> None:
    print(what, flush=True)


def _write_json(values: dict[str, Any], path: Path) -> None:
    with atomic.replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
