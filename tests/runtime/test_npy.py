"""Arrays on disk: whatever a header may say, the right array or a sentence."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as numpy_format

from xattn.runtime.errors import InputError
from xattn.runtime.npy import read_array


def put(path, header, numbers=b"\0" * 48, version=b"\x01\x00"):
    """A file with a header as given, and 12 float32 numbers."""
    text = header if isinstance(header, bytes) else header.encode("latin-1")
    path.write_bytes(
        b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text + numbers
    )
    return path


def complaint(path):
    with pytest.raises(InputError) as caught:
        read_array(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: expected a NumPy array of numbers, but ")


TYPES = ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1", "<i2"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(3, 4), (5,), (), (2, 3, 4), (0, 3)])
def test_what_numpy_writes_is_read(tmp_path, shape, dtype, order):
    array = np.asarray(np.arange(int(np.prod(shape))).reshape(shape), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    found = read_array(tmp_path / "a.npy")
    assert (found.dtype, found.shape, found.flags.writeable) == (array.dtype, shape, 0 in shape)
    np.testing.assert_array_equal(found, array)
    assert 0 in shape or isinstance(found, np.memmap)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format(tmp_path, version):
    with (tmp_path / "a.npy").open("wb") as file:
        numpy_format.write_array(file, np.arange(12.0), version=version)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), np.arange(12.0))


@pytest.mark.parametrize(
    "header",
    [
        '{"descr": "<f4", "fortran_order": False, "shape": (3, 4)}',
        "{'shape':(3L, 4L),'fortran_order':False,'descr':'<f4'}\n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4,), }    \n",
    ],
)
def test_headers_as_other_programs_write_them(tmp_path, header):
    assert read_array(put(tmp_path / "a.npy", header)).shape == (3, 4)


def about(shape="(3, 4)", descr="'<f4'", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (about("(-3, 4)"), 'its header is damaged, with a shape of "(-3, 4)"'),
        (about("(True, 4)"), 'its header is damaged, with a shape of "(True, 4)"'),
        (about("(3.0, 4)"), 'its header is damaged, with a shape of "(3.0, 4)"'),
        (about("(12)"), 'its header is damaged, with a shape of "(12)"'),
        (about("'12'"), "its header is damaged, with a shape of \"'12'\""),
        (about(f"({'9' * 400}, 4)"), "its header is damaged, with a shape of"),
        (about("(-0x3, 4)"), "its header is damaged, with a shape of"),
        (about("(³, 4)"), "its header is damaged, with a shape of"),
        (about("(" + "1, " * 40 + ")"), "it has 40 dimensions"),
        (about("(999999999999, 999999999999)"), "it is cut short: its header promises 3,999,999,999,99"),
        (about("(4, 4)"), "it is cut short: its header promises 133 bytes, and it has 117 (shape (4, 4) of float32)"),
        (about("(2, 4)"), "it holds more than one array, or something else after it: its header promises 101 bytes"),
        (about("(0, 999999999999999999, 999999999999999999)", "'<f4'"), "it holds more than one array"),
        (about(descr="'|O'"), "it holds Python objects"),
        (about(descr="'O'"), "it holds Python objects"),
        (about(descr="'<U3'"), "it holds text"),
        (about(descr="'|S3'"), "it holds bytes"),
        (about(descr="'<M8[ns]'"), "it holds dates"),
        (about(descr="'<c8'"), "it holds complex"),
        (about(descr="[('a', '<f4'), ('b', '<f4')]"), "it holds records"),
        (about(descr="'<f3'"), 'its numbers are of a type that is not known, "<f3"'),
        (about(descr="'float32, (9999999999,)f4'"), "its numbers are of a type that is not known"),
        (about(descr="'<i" + "4" * 5000 + "'"), "its numbers are of a type that is not known"),
        (about(descr="True"), "it holds records"),
        (about(fortran="'no'"), "its header is damaged, with a fortran_order of"),
        (about(fortran="1"), "its header is damaged"),
        (" " + about(), "its header is damaged"),
        ("    " + about().replace(",", ",\n"), "its header is damaged"),
        (about() + about(), "its header is damaged"),
        (about().replace("'shape'", "'descr'"), "its header is damaged"),
        (about()[:-1], "its header is damaged"),
        ("", "its header is damaged"),
        ("[" * 60000, "its header is damaged"),
        ("{" + "(" * 60000, "its header is damaged"),
        (about("(" * 3000 + "3" + ")" * 3000), "its header is damaged"),
        ("-" * 60000 + "1", "its header is damaged"),
        ("{'descr': __import__('os'), 'fortran_order': False, 'shape': (3, 4)}", "its header is damaged"),
        (about().encode() + b"\xff\0", "its header is damaged"),
    ],
)
def test_headers_that_are_none(tmp_path, header, said):
    assert complaint(put(tmp_path / "a.npy", header)).startswith(said)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04aaaa", "it holds a zip archive (.npz)"),
        (b"not an array", "it holds something else"),
        (b"\x93NUMPY", "its header is damaged or of a version that is not known"),
        (b"\x93NUMPY\x01", "its header is damaged or of a version that is not known"),
        (b"\x93NUMPY\x09\x00\x00\x00", "its header is damaged or of a version that is not known"),
        (b"\x93NUMPY\x01\x00", 'its header is damaged, ""'),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr'", "it is cut short within its header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'", "its header claims 4,294,967,295 bytes"),
    ],
)
def test_files_that_are_none(tmp_path, raw, said):
    (tmp_path / "a.npy").write_bytes(raw)
    assert complaint(tmp_path / "a.npy") == said


def test_a_folder_and_a_file_that_is_not_there(tmp_path):
    assert complaint(tmp_path) == f"{tmp_path}: expected a regular file, but this is a folder"
    assert complaint(tmp_path / "no.npy") == f"{tmp_path / 'no.npy'}: cannot be read (No such file or directory)"


def test_nothing_of_an_impossible_shape(tmp_path):
    path = put(tmp_path / "a.npy", about("(0, 999999999999999999, 999999999999999999)"), b"")
    assert complaint(path).startswith("it cannot be mapped")


@given(place=st.integers(0, 175), byte=st.integers(0, 255), length=st.integers(0, 176))
@settings(max_examples=300, deadline=None)
def test_any_damage_is_an_array_or_a_sentence(tmp_path_factory, place, byte, length):
    path = tmp_path_factory.mktemp("damaged") / "a.npy"
    np.save(path, np.arange(12, dtype="<f4").reshape(3, 4))
    raw = bytearray(path.read_bytes())
    raw[place] = byte
    path.write_bytes(raw[:length] if length % 2 else raw)
    with suppress(InputError):
        assert read_array(path).nbytes == 48
