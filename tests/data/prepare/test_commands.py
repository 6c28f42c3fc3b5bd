"""`xattn prepare` as a person types it: each source, and what becomes of a mistake."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from source_files import (
    karpathy_image,
    regions_of,
    write_coco_captions,
    write_entities,
    write_instances,
    write_karpathy,
    write_tsv,
)
from xattn.cli import prepare
from xattn.cli.main import main
from xattn.data.prepare.tsv import read_rows
from xattn.data.reader import read_split

pytestmark = pytest.mark.usefixtures("sigterm_restored")
SOURCES = {
    "archive": prepare.Archive,
    "tsv": prepare.Tsv,
    "karpathy": prepare.Karpathy,
    "coco": prepare.Coco,
    "entities": prepare.Entities,
}


def helped(capsys, monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", "140")
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_help_lists_the_sources_with_what_each_needs(capsys, monkeypatch):
    text = helped(capsys, monkeypatch, "prepare")
    for name, source in SOURCES.items():
        assert f"• {name} " in text
        assert " ".join((source.__doc__ or "?").split()) in text
        assert "Needs" in (source.__doc__ or "")


@pytest.mark.parametrize("name", SOURCES)
def test_help_of_a_source_explains_every_flag(capsys, monkeypatch, name):
    text = helped(capsys, monkeypatch, "prepare", name)
    for flag in SOURCES[name].__dataclass_fields__:
        assert f"--{flag.replace('_', '-')} " in text


def test_flickr30k_from_tsv_and_entities(capsys, tmp_path):
    splits = write_karpathy(
        tmp_path / "dataset_flickr30k.json",
        [
            karpathy_image("11.jpg", "train", ["A dog runs."], first_sentid=1),
            karpathy_image("12.jpg", "test", ["A cat."], first_sentid=2),
        ],
    )
    entities = tmp_path / "entities"
    boxes = regions_of(11, 4)[0][2]
    box = (int(boxes[0]) + 1, int(boxes[1]) + 1, int(boxes[2]), int(boxes[3]))  # counted from 1, both ends included
    write_entities(entities, "11", ["[/EN#1/animals A dog] runs ."], [(["1"], box, False)])
    write_entities(entities, "12", ["[/EN#2/animals A cat] ."], [(["2"], None, True)])
    captions, data = tmp_path / "captions.jsonl", tmp_path / "data"
    main(["prepare", "entities", "--captions", str(splits), "--annotations", str(entities), "--out", str(captions)])
    assert "1 of 2 captions have truth, for 2 tokens in 1 phrases" in capsys.readouterr().out
    tsv = write_tsv(tmp_path / "a.tsv", [11, 12])
    main(["prepare", "tsv", "--tsv", str(tsv), "--captions", str(captions), "--out", str(data)])
    out = capsys.readouterr().out
    assert (
        "train: 1 of 1 captions have truth, for 2 tokens in 1 phrases; 1 phrases (100.0%) have a region at IoU 0.5"
        in out
    )
    split = read_split(data, "train")
    assert split.truth is not None
    assert split.boxes is not None
    np.testing.assert_array_equal(split.truth[0][0].boxes[0], split.boxes[0, 2])
    main(["prepare", "karpathy", "--captions", str(splits), "--out", str(tmp_path / "plain.jsonl")])
    assert json.loads((tmp_path / "plain.jsonl").read_text().splitlines()[0])["image_id"] == "11"


def test_coco_from_its_own_files_to_regions_of_photos(capsys, tmp_path, monkeypatch):
    images = [(number, f"{number:012}.jpg", 64, 48) for number in (7, 8, 9)]
    (tmp_path / "photos").mkdir()
    for number, file, width, height in images:
        Image.new("RGB", (width, height), (number * 20, 90, 10)).save(tmp_path / "photos" / file)
    captions = write_coco_captions(tmp_path / "captions.json", images, [(n, n, "a dog and a bike") for n, *_ in images])
    instances = write_instances(tmp_path / "instances.json", images, [(n, 18, [0, 0, 64, 48], 0) for n, *_ in images])
    out, data = tmp_path / "captions.jsonl", tmp_path / "data"
    main(["prepare", "coco", "--captions", str(captions), "--instances", str(instances), "--out", str(out)])
    assert "3 of 3 captions have truth, for 3 tokens in 3 phrases" in capsys.readouterr().out

    class Colours:
        feature_size = 3

        def region_features(self, image, boxes):
            return image.mean((1, 2)).expand(len(boxes), 3)

    monkeypatch.setattr("xattn.data.prepare.photo_rows.EfficientNetLite0", Colours)
    main(["regions", "--images", str(tmp_path / "photos"), "--captions", str(out), "--out", str(data)])
    assert "have a region at IoU 0.5, which bounds the recall of any attention" in capsys.readouterr().out
    split = read_split(data, "train")
    assert split.images is not None
    assert split.caption_ids == [
        image.id for image in split.images
    ]  # the numbers of the captions are those of the images here
    assert split.truth is not None
    assert split.truth[0][0].type == "animal"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "prepare tsv --tsv a.tsv --captions none.json --out d",
            "xattn: none.json: cannot be read (No such file or directory)",
        ),
        (
            "prepare karpathy --captions c.txt --out d",
            "xattn: c.txt: captions are read from a file whose name ends in .csv or .jsonl",
        ),
        (
            "prepare archive --archive none --out d",
            "xattn: none: expected a precomp folder, but there is no folder of this name",
        ),
        (
            "prepare coco --captions c.json --instances i.json --out d.jsonl",
            "xattn: i.json: cannot be read (No such file or directory)",
        ),
    ],
)
def test_a_mistake_is_one_sentence(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"{said}\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    tsv = write_tsv(tmp_path / "a.tsv", [1])
    captions = write_karpathy(tmp_path / "d.json", [karpathy_image("1.jpg", "train", ["a dog"])])

    def interrupted(*arguments):
        yield from read_rows(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("xattn.data.prepare.tsv_folder.ROWS_A_SAVE", 1)
    monkeypatch.setattr("xattn.data.prepare.tsv_folder.read_rows", interrupted)
    with pytest.raises(SystemExit):
        main(["prepare", "tsv", "--tsv", str(tsv), "--captions", str(captions), "--out", str(tmp_path / "data")])
    assert (
        capsys.readouterr().err
        == f"xattn: interrupted; the same command goes on from what {tmp_path / 'data.partial'} holds\n"
    )
