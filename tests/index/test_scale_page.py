"""The ranking expressions for Vespa in docs/scale.md compute what the model computes.

Vespa's expressions are read as Python's after a few changes of their form, and evaluated by the rules of its reference:
arithmetic joins tensors over the dimensions that they have in common.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from index_photos import SENTENCES, write_photos, written_run
from xattn.index.adding import add_photos
from xattn.index.asking import search_index
from xattn.index.exporting import export_index
from xattn.index.photo_index import create_index
from xattn.index.sentence_vectors import SentenceEncoder

pytest.importorskip("lancedb")
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


@dataclass
class Tensor:
    """Cells by the names of their dimensions."""

    names: tuple[str, ...]
    cells: np.ndarray

    def joined(self, other, compute):
        if not isinstance(other, Tensor):
            return Tensor(self.names, compute(self.cells, other))
        names = tuple(dict.fromkeys([*self.names, *other.names]))
        return Tensor(names, compute(self.along(names), other.along(names)))

    def along(self, names):
        order = [self.names.index(name) for name in names if name in self.names]
        shape = [self.cells.shape[self.names.index(name)] if name in self.names else 1 for name in names]
        return self.cells.transpose(order).reshape(shape)

    def __mul__(self, other):
        return self.joined(other, np.multiply)

    def __truediv__(self, other):
        return self.joined(other, np.divide)


def reduce(tensor, aggregator, name):
    axis = tensor.names.index(name)
    cells = {"sum": np.sum, "avg": np.mean, "max": np.max}[aggregator](tensor.cells, axis=axis)
    return Tensor(tensor.names[:axis] + tensor.names[axis + 1 :], cells)


def mapped(tensor, function):
    return Tensor(tensor.names, np.vectorize(function)(tensor.cells))


FUNCTIONS = {
    "reduce": reduce,
    "map": mapped,
    "sum": lambda tensor, name: reduce(tensor, "sum", name),
    "avg": lambda tensor, name: reduce(tensor, "avg", name),
    "l1_normalize": lambda tensor, name: tensor / reduce(tensor, "sum", name),
    "l2_normalize": lambda tensor, name: tensor / mapped(reduce(tensor * tensor, "sum", name), np.sqrt),
    "cosine_similarity": lambda a, b, name: (
        reduce(a * b, "sum", name) / mapped(reduce(a * a, "sum", name) * reduce(b * b, "sum", name), np.sqrt)
    ),
    "if_": lambda condition, one, other: one if condition else other,
    "exp": np.exp,
    **{name: name for name in ("max", "word", "region", "x", "d")},
}


def evaluated(profile, inputs):
    """The value of each function and phase of a rank profile, by its name."""
    values = dict(FUNCTIONS)
    for name, expression in re.findall(
        r"^ *(?:function )?([\w-]+)(?:\(\))? \{ expression: (.*?) (?: total|\})", profile, re.M
    ):
        text = re.sub(r"(query|attribute)\((\w+)\)", r"inputs['\1', '\2']", expression)
        text = re.sub(r"f\((\w)\)\(", r"(lambda \1: ", text.replace("if (", "if_("))
        values[name] = eval(text, {**values, "inputs": inputs})
    return values


@pytest.mark.parametrize(("name", "direction"), [("scan-t2i-avg", "t2i"), ("scan-i2t-avg", "i2t")])
def test_the_rank_profile_computes_the_score(tmp_path, configured, name, direction):
    index = create_index(tmp_path / "index", written_run(tmp_path / "run", configured, name))
    add_photos(index, [write_photos(tmp_path / "photos", 5)[0].parent], progress=lambda *_: None)
    export_index(index, tmp_path / "out", progress=lambda *_: None)
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "photos-00001.parquet").to_pylist()
    profile = PAGE.read_text(encoding="utf-8").partition("rank-profile scan")[2].partition("```")[0]
    profile = profile.replace("exp(9 *", f"exp({index.run.config.model.lambda_softmax} *")
    if direction == "i2t":  # the regions are the queries, and the words are attended to
        first, _, rest = profile.partition("function similarity")
        swapped = {"word": "region", "region": "word", "query(words)": "attribute(regions)"}
        swapped |= {"attribute(regions)": "query(words)"}
        pattern = r"query\(words\)|attribute\(regions\)|\bword\b|\bregion\b"
        profile = f"{first}function similarity{re.sub(pattern, lambda found: swapped[found[0]], rest)}"
    found = search_index(index, SENTENCES, top=5)
    for sentence, each in zip(
        SentenceEncoder(tmp_path / "out", tmp_path / "run").encoded(SENTENCES), found, strict=True
    ):
        expected = {hit.file: hit.score for hit in each.hits}
        assert len(expected) == 5
        for row in rows:
            inputs = {
                ("query", "first"): Tensor(("word", "x"), sentence.first),
                ("query", "words"): Tensor(("word", "d"), sentence.words),
                ("attribute", "first"): Tensor(("region", "x"), np.array(row["first"], np.float32)),
                ("attribute", "regions"): Tensor(("region", "d"), np.array(row["regions"], np.float32)),
            }
            values = evaluated(profile, inputs)
            assert float(values["second-phase"].cells) == pytest.approx(expected[row["path"]], abs=1e-4)
            maxsim = (sentence.first @ np.array(row["first"], np.float32).T).max(axis=1).sum()
            assert float(values["first-phase"].cells) == pytest.approx(maxsim, abs=1e-5)
