"""`xattn search`: look for images with a sentence."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_line
from xattn.runtime import atomic
from xattn.runtime.errors import InputError


@dataclass(frozen=True)
class Search:
    """Find the images that fit a sentence best, in a data folder or in an index of your own photos, and draw where its
    words lie in them.

    xattn search RUN "a sentence" --data FOLDER

    xattn search INDEX "a sentence" ["another" ...]

    xattn search INDEX --image photo.jpg
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|INDEX")]
    """The run folder; or the index, which has its run inside."""
    sentences: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[SENTENCE ...]")] = ()
    """What to look for, in quotes; in an index several sentences, each asked by itself."""
    data: Path | None = None
    """Of a run: the data folder."""
    split: str = "test"
    """Of a run: which split of the data."""
    top: int = 10
    """How many images to find."""
    out: Path | None = None
    """The PNG file to write, on which each of them shows what the words of the sentence light up; needs the image
    files."""
    images: Path | None = None
    """Of a run, with --out: the folder where the image files are now, if they have moved since the data folder was
    made."""
    encoded: Path | None = None
    """Of a run: a folder for the encoded images: the first search writes it, the next ones read it and answer at once.
    Scores are then those of regions in int8."""
    prior: float | None = None
    """Of a run: search with this power of the regions' scores as the prior of the words' attention, whatever the run
    was trained with; 0: with none."""
    prior_area: float | None = None
    """Of a run: search with this power of the regions' areas in that prior, whatever the run was trained with."""
    image: Path | None = None
    """Of an index: find photos like this one, in place of sentences."""
    where: str | None = None
    """Of an index: only photos of which this holds, as `xattn index list` takes it."""
    text: str | None = None
    """Of an index: only photos whose captions have one of these words."""
    within: Path | None = None
    """Of an index: only photos in this folder, subfolders included."""
    exact: bool = False
    """Of an index: score every photo, and not only the best of the first stage."""
    json: Path | None = None
    """Write the same list here."""

    def run(self) -> None:
        """Call `xattn.retrieval.query.search`, or `xattn.index.asking.search_index`."""
        from xattn.index.about import is_index

        given = _given(self, _OF_A_RUN), _given(self, _OF_AN_INDEX)
        if is_index(self.folder):
            if given[0]:
                raise InputError(f"{given[0]} is for a run with a data folder, and {self.folder} is an index of photos")
            self._in_index()
        elif self.data is None:
            raise InputError(
                f"{self.folder}: is no index of photos (`xattn index create` makes one), so a run is expected, and "
                "with it --data, the folder to search"
            )
        elif given[1]:
            raise InputError(f"{given[1]} is for an index of photos, and {self.folder} is none")
        elif len(self.sentences) != 1:
            raise InputError("expected one sentence, in quotes; an index of photos takes several")
        else:
            self._in_data(self.data, self.sentences[0])

    def _in_data(self, data: Path, sentence: str) -> None:
        from xattn.data.tokenizer import tokenize
        from xattn.evaluation.score import unknown_note
        from xattn.retrieval.query import search
        from xattn.runs.folder import load_run
        from xattn.runtime.device import best_device

        run = load_run(self.folder, best_device() if self.encoded is None else "cpu")
        hits = search(
            run,
            data,
            sentence,
            self.split,
            self.top,
            self.out,
            images=self.images,
            encoded=self.encoded,
            prior=self.prior,
            prior_area=self.prior_area,
        )
        unknown = run.unknown_words(tokenize(sentence))
        for line in (f"{sentence}{unknown_note(unknown)}", *hits, *([self.out] if self.out else [])):
            print_line(line)
        if self.json:
            about = {
                "run": str(self.folder),
                "data": str(data),
                "split": self.split,
                "sentence": sentence,
                "prior": self.prior,
                "prior_area": self.prior_area,
            }
            atomic.write_json(
                about | {"unknown": unknown, "hits": [dataclasses.asdict(hit) for hit in hits]}, self.json
            )

    def _in_index(self) -> None:
        from xattn.data.tokenizer import tokenize
        from xattn.evaluation.score import unknown_note
        from xattn.index.asking import search_index
        from xattn.index.photo_index import open_index
        from xattn.index.searching import CANDIDATES
        from xattn.index.sheet import check_index_sheet, draw_index_sheet

        if self.out is not None:
            check_index_sheet(self.out, self.sentences, self.top)
        index = open_index(self.folder)
        found = search_index(
            index,
            self.sentences,
            self.image,
            self.top,
            self.where,
            self.text,
            self.within,
            candidates=None if self.exact else CANDIDATES,
        )
        questions = self.sentences or (f"like {self.image}",)
        unknown = [index.run.unknown_words(tokenize(each)) if self.sentences else () for each in questions]
        for asked, words, each in zip(questions, unknown, found, strict=True):
            for line in (f"{asked}{unknown_note(words)}", *each.hits):
                print_line(line)
        if self.out is not None:
            print_line(draw_index_sheet(self.out, index, self.sentences[0], found[0]))
        if self.json:
            answers = [
                {"sentence" if self.sentences else "image": asked if self.sentences else str(self.image)}
                | {"unknown": words, "scored": each.n_scored, "hits": [dataclasses.asdict(hit) for hit in each.hits]}
                for asked, words, each in zip(questions, unknown, found, strict=True)
            ]
            atomic.write_json({"index": str(self.folder), "answers": answers}, self.json)


_OF_A_RUN = ("data", "split", "images", "encoded", "prior", "prior_area")
_OF_AN_INDEX = ("image", "where", "text", "within", "exact")


def _given(search: Search, names: Sequence[str]) -> str:
    """The first of some options that a person has given, as it is typed; empty if none is."""
    defaults = {each.name: each.default for each in dataclasses.fields(search)}
    return next((f"--{name.replace('_', '-')}" for name in names if getattr(search, name) != defaults[name]), "")
