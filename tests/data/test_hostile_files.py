"""Every file that a command reads of data, damaged or made to harm: one sentence that names it, in little time."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest

from source_files import regions_of, tsv_line, write_instances
from xattn.data.prepare.archive import write_archive_folder
from xattn.data.prepare.box_file import read_boxes
from xattn.data.prepare.caption_file import Caption, read_captions
from xattn.data.prepare.captions import captions_from
from xattn.data.prepare.coco import read_instances
from xattn.data.prepare.entity_files import read_entities, read_sentences
from xattn.data.prepare.tsv_folder import write_tsv_folder
from xattn.data.reader import check_features, read_split
from xattn.data.vocabulary import Vocabulary
from xattn.runtime.errors import InputError

MOST_SECONDS = 20


def read_folder(path: Path) -> None:
    """A data folder in which a file is the one at `path`."""
    check_features(read_split(path.parent, "train"))


def prepare_archive(path: Path) -> None:
    write_archive_folder(path.parent, path.parent.parent / "out", progress=lambda *_: None)


def prepare_tsv(path: Path) -> None:
    captions = [Caption("1.jpg", "a dog", 1)]
    write_tsv_folder([path], captions, path.parent / "out", n_regions=4, progress=lambda *_: None)


def data_folder(folder: Path) -> Path:
    """A whole data folder, every file of which is there."""
    folder.mkdir()
    rows = [regions_of(number, 4) for number in (1, 2, 3)]
    np.save(folder / "train_ims.npy", np.stack([features for _, features in rows]))
    np.save(folder / "train_boxes.npy", np.stack([boxes for boxes, _ in rows]))
    np.save(folder / "train_counts.npy", np.array([4, 4, 3]))
    (folder / "train_caps.txt").write_text("a dog\na cat\na cow\n")
    (folder / "train_caption_image.txt").write_text("0\n1\n2\n")
    (folder / "train_caption_ids.txt").write_text("10\n11\n12\n")
    (folder / "train_every.txt").write_text("1\n")
    record = {"file": "a.jpg", "width": 100, "height": 80}
    (folder / "train_images.jsonl").write_text("".join(json.dumps({"id": n, **record}) + "\n" for n in range(3)))
    span = {"start": 1, "end": 2, "boxes": [[0, 0, 9, 9]], "type": "animals"}
    (folder / "train_truth.jsonl").write_text(json.dumps({"caption": 1, "spans": [span]}) + "\n")
    np.save(folder / "train_region_scores.npy", np.full((3, 4), 0.5, np.float32))
    np.save(folder / "train_region_labels.npy", np.zeros((3, 4), np.int32))
    (folder / "train_label_names.txt").write_text("dog\n")
    (folder / "train_ids.txt").write_text("1\n2\n3\n")
    return folder


FOLDER = [
    "train_ims.npy",
    "train_boxes.npy",
    "train_counts.npy",
    "train_caps.txt",
    "train_caption_image.txt",
    "train_caption_ids.txt",
    "train_every.txt",
    "train_images.jsonl",
    "train_truth.jsonl",
    "train_region_scores.npy",
    "train_region_labels.npy",
]
READERS: dict[str, Callable[[Path], object]] = {
    **{f"data/{name}": read_folder for name in FOLDER},
    "data/train_ids.txt": prepare_archive,
    "vocabulary.json": Vocabulary.load,
    "captions.csv": read_captions,
    "captions.jsonl": read_captions,
    "captions.json": captions_from,
    "boxes.jsonl": lambda path: read_boxes(path, ["1.jpg"]),
    "instances.json": lambda path: read_instances([path]),
    "a.tsv": prepare_tsv,
    "entities/Sentences/1.txt": read_sentences,
    "entities/Annotations/1.xml": read_entities,
}


@pytest.fixture
def files(tmp_path):
    """A good file for every reader."""
    data_folder(tmp_path / "data")
    Vocabulary.build(["a dog"], 1).save(tmp_path / "vocabulary.json")
    (tmp_path / "captions.csv").write_text("image,caption\n1.jpg,a dog\n")
    (tmp_path / "captions.jsonl").write_text('{"image": "1.jpg", "caption": "a dog"}\n')
    sentence = {"raw": "a dog", "sentid": 1}
    image = {"filename": "1.jpg", "split": "train", "sentences": [sentence]}
    (tmp_path / "captions.json").write_text(json.dumps({"images": [image]}))
    (tmp_path / "boxes.jsonl").write_text('{"image": "1.jpg", "boxes": [[0, 0, 9, 9]]}\n')
    write_instances(tmp_path / "instances.json", [(1, "1.jpg", 100, 80)], [(1, 18, [0, 0, 9, 9], 0)])
    (tmp_path / "a.tsv").write_text(tsv_line("1", *regions_of(1, 4)) + "\n")
    (tmp_path / "entities" / "Sentences").mkdir(parents=True)
    (tmp_path / "entities" / "Annotations").mkdir()
    (tmp_path / "entities" / "Sentences" / "1.txt").write_text("[/EN#1/animals A dog] runs .\n")
    thing = "<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    size = "<size><width>100</width><height>80</height></size>"
    (tmp_path / "entities" / "Annotations" / "1.xml").write_text(f"<annotation>{size}{thing}</annotation>")
    return tmp_path


def refused(name, path):
    """The sentence with which a file is refused, which names it, in bounded time."""
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        READERS[name](path)
    assert time.process_time() - began < MOST_SECONDS
    said = str(caught.value)
    assert path.name in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read(files, name):
    READERS[name](files / name)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling"])
def test_what_is_no_file(files, name, kind):
    path = files / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    if kind == "dangling" and read_folder == READERS[name] and name[5:] not in FOLDER[:4:3]:
        return  # what need not be there
    if name == "data/train_ids.txt" and kind == "dangling":
        return
    refused(name, path)


NOISE = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
CONTENTS = {
    "empty": b"",
    "noise": NOISE,
    "zeros": b"\0" * 5000,
    "utf-16": "a dog runs\n".encode("utf-16"),
    "latin": "Hündin\n".encode("latin-1"),
    "deep list": b"[" * 200_000,
    "deep object": b'{"images":' * 100_000,
    "deep mapping": b'{"image": "1.jpg", "caption": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "half a character": rb'{"image": "1.jpg", "caption": "a \ud83d", "boxes": []}',
    "digits": b'{"image": ' + b"9" * 100_000 + b"}",
    "too large": b'{"image": 1e999, "images": [{"id": 1e999}]}',
    "no number": b'{"image": NaN, "images": [{"id": NaN}], "annotations": NaN}',
    "quotes": b'"' * 99_999,
    "commas": b"," * 200_000,
    "brackets": b"[/EN#1/" + b"a/" * 40_000,
    "tabs": b"\t" * 200_000,
    "entities": b'<!DOCTYPE a [<!ENTITY b "&b;">]><annotation>&b;</annotation>',
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "array": b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (3,), }" + b" " * 60 + b"\n",
}
HARMLESS = {
    # Captions and sentences may say anything.
    "data/train_caps.txt": {"deep list", "commas"},
    "data/train_ids.txt": set(),
    "entities/Sentences/1.txt": set(CONTENTS) - {"noise", "utf-16", "latin", "brackets", "pickle", "array"},
    "data/train_truth.jsonl": {"empty", "tabs"},
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_files_that_hold_something_else(files, name, content):
    path = files / name
    path.write_bytes(CONTENTS[content])
    if content in HARMLESS.get(name, ()):
        began = time.process_time()
        with suppress(InputError):
            READERS[name](path)
        assert time.process_time() - began < MOST_SECONDS
    else:
        refused(name, path)


@pytest.mark.parametrize("name", READERS)
def test_files_that_are_cut_short(files, name):
    """At any place: the right values of what is left, or a sentence."""
    whole = (files / name).read_bytes()
    for length in sorted({*range(min(len(whole), 40)), *np.linspace(0, len(whole) - 1, 20, dtype=int).tolist()}):
        (files / name).write_bytes(whole[:length])
        with suppress(InputError):
            READERS[name](files / name)


TOKENS = (
    *(b"-1", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'""', b"9" * 400, b"999999999999999999999", b"0.5"),
    *(
        b"\xff",
        b"\0",
        b"\n",
        b"\t",
        b",",
        b'"',
        b"'",
        b"=",
        b"(",
        b"[[[[",
        b"b''",
        rb"\ud800",
        b"\xe2\x80\xa8",
        b"\xc2\xb2",
    ),
    *(b"[/EN#", b"<a>", b"&#0;", b"&#xD800;", b"True"),
)


def mutated(raw: bytes, random: Random) -> bytes:
    """A copy with one to six changes: a byte, an insertion of a token or of a part of its own, a part removed, a number
    replaced."""
    changed = bytearray(raw)
    for _ in range(random.choice([1, 1, 1, 2, 3, 6])):
        place, kind = random.randrange(len(changed) + 1), random.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] = random.randrange(256)
        elif kind == 1:
            changed[place:place] = random.choice(TOKENS)
        elif kind == 2:
            del changed[place : place + random.randrange(1, 20)]
        elif kind == 3:
            begin = random.randrange(len(changed) + 1)
            changed[place:place] = changed[begin : begin + random.randrange(1, 60)]
        elif numbers := list(re.finditer(rb"-?\d+", bytes(changed))):
            found = random.choice(numbers)
            changed[found.start() : found.end()] = random.choice(TOKENS)
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_any_damage_is_values_or_a_sentence(files, name):
    """More than 500 files over all readers, the same in every run."""
    random, whole = Random(name), (files / name).read_bytes()
    for trial in range(30):
        folder = files.parent / f"{files.name} {trial}"
        shutil.copytree(files, folder)
        (folder / name).write_bytes(mutated(whole, random))
        began = time.process_time()
        try:
            READERS[name](folder / name)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017  # values will do as well
        assert time.process_time() - began < MOST_SECONDS
        shutil.rmtree(folder)
