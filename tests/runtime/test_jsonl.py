"""JSON that cannot be used is refused with a sentence that names the file and the place."""

import os

import pytest

from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import four_numbers, pixels, read_object
from xattn.runtime.jsonl import parse_json, preview, read_json, read_json_lines, read_lines

HALVES = (r'"\ud800"', r'{"\uDFFF": 1}', r'["\ude00\ud83d"]', r'"\ud83d\ud83d\ude00"', r'"\\\ud800 \\ud800"')


def complaint(read, path, *arguments):
    with pytest.raises(InputError) as caught:
        read(path, *arguments)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize("text", HALVES)
def test_half_a_character_is_refused_as_it_could_not_be_written_again(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    half = (
        r"\ud83d"
        if "ud83d\\ud83d" in text
        else next(each for each in (r"\ud800", r"\uDFFF", r"\ude00") if each in text)
    )
    assert complaint(read_json, path, "a vocabulary") == (
        f": expected a vocabulary as JSON in UTF-8, but it cannot be read (it holds {half}, which is half a character)"
    )
    path.write_text(f'{{"a": {text}}}\n')
    assert complaint(read_json_lines, path) == (
        f", line 1: expected a JSON object, but it is not JSON (it holds {half}, which is half a character)"
    )


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'"\uD83D\uDE00\uD83D\uDE00"', r'"\\ud800"', '"\U0001f600"'])
def test_whole_characters_are_read(text):
    assert parse_json(text).encode()


def test_json_that_is_nested_too_deeply(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    assert complaint(read_json, path, "captions") == (
        ": expected captions as JSON in UTF-8, but it cannot be read (it is nested too deeply)"
    )
    nested: list = []
    for _ in range(5000):
        nested = [nested]
    assert preview(nested) == "a list nested too deeply to show"


def test_other_encodings_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('{"a": 1}'.encode("utf-16"))
    assert complaint(read_json, path, "captions").startswith(
        ": expected captions as JSON in UTF-8, but it cannot be read ('utf-8' codec can't decode byte 0xff"
    )
    path.write_bytes('{"a": 1}'.encode("utf-8-sig"))
    assert read_json(path, "captions") == {"a": 1}


def test_a_number_of_thousands_of_digits(tmp_path):
    (tmp_path / "a.json").write_text("9" * 5000)
    assert "but it cannot be read (Exceeds the limit" in complaint(read_json, tmp_path / "a.json", "captions")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_json_lines, lambda path: read_json(path, "captions")):
        assert complaint(read, tmp_path / "pipe") == ": expected a regular file, but this is a named pipe"


def test_a_file_that_is_too_large(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}" + " " * 98)
    assert read_object(path, "the settings", 100) == {}
    assert complaint(read_object, path, "the settings", 99) == (
        ": expected the settings, of 99 bytes at most, but the file has 100"
    )


OTHER = ": expected text in UTF-8, but the file is in UTF-16; save it as UTF-8"


def test_lines_in_another_encoding(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("a dog\n".encode("utf-16"))
    assert complaint(read_lines, path) == OTHER
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes("a dog\nruns".encode(encoding))
        assert complaint(read_lines, path) == OTHER
    assert complaint(read_lines, "a\0b").startswith(": cannot be read (embedded null")


@pytest.mark.parametrize("value", [10**9, "1" + "0" * 4000, -1, 0, True, 1.5, "NaN", "1e400"])
def test_a_size_that_no_picture_has(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text(f'{{"width": {str(value).lower() if value is True else value}}}')
    with pytest.raises(
        InputError, match=r'expected "width" to be a whole number of pixels, at (least 1|most 100,000,000)'
    ):
        pixels("a.json", read_object(path, "sizes"), "width")


@pytest.mark.parametrize("value", ["1e400", "NaN", "-Infinity", "1" + "0" * 400, "true", '"1"'])
def test_a_number_that_is_none(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text(f'{{"bbox": [1, 2, 3, {value}]}}')
    with pytest.raises(InputError, match='expected "bbox" to be four finite numbers'):
        four_numbers("a.json", read_object(path, "boxes"), "bbox")
    path.write_text(f'{{"bbox": {"1" * 5000}}}')
    with pytest.raises(InputError, match="cannot be read"):
        read_object(path, "boxes")


def test_a_key_that_comes_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"caption": "a dog", "image": "1.jpg", "caption": "a cat"}\n')
    assert complaint(read_json_lines, path) == (
        ', line 1: expected a JSON object, but it is not JSON (an object has the key "caption" twice)'
    )
    assert parse_json('{"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}') == {"a": {"b": 1}, "b": [{"a": 1}, {"a": 2}]}
