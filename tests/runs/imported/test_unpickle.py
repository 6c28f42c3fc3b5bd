"""Reading checkpoints: all that published files hold comes out, nothing that they ask for is run, and the damaged are
refused."""

import argparse
import io
import os
import pickle
import re
import struct
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from published_checkpoints import (
    MAGIC,
    Call,
    Global,
    Long,
    OldLayout,
    Raw,
    Stored,
    Writer,
    published_checkpoint,
    write_old_layout,
)
from xattn.runs.imported import unpickle
from xattn.runs.imported.unpickle import read_checkpoint
from xattn.runtime.errors import InputError

HOOKS = Call(Global("collections", "OrderedDict"), ([],))
FLOATS = Global("torch", "FloatStorage")


def rebuilt(identity, offset=0, size=(2,), stride=(1,), *rest):
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"),
        (Stored(identity), offset, size, stride, *(rest or (False, HOOKS))),
    )


def storage(elements=6, key="k", kind=FLOATS, view=None):
    return ("storage", kind, key, "cuda:0", elements, view)


def encoded(contents, storages=None, keys=None, header=None):
    """An old layout of `contents` as they are, with float storages."""
    layout = OldLayout(None)
    layout.header = header or layout.header
    layout.contents = contents
    layout.storages = storages if storages is not None else {"k": torch.arange(6.0)}
    code = layout.encode()
    if keys is not None:
        real = Writer().dumps(sorted(layout.storages))
        assert code.count(real) == 1
        code = code.replace(real, Writer().dumps(keys))
    return code


def zipped(data, storages=None, **others):
    """A zip of the contents as they are."""
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
        for name, content in others.items():
            archive.writestr(f"archive/{name}", content)
    return code.getvalue()


@pytest.fixture
def read(tmp_path):
    """Read a file of these bytes."""

    def reading(code):
        (tmp_path / "a.pth.tar").write_bytes(code)
        return read_checkpoint(tmp_path / "a.pth.tar")

    return reading


@pytest.fixture
def refused(read, tmp_path):
    """The one sentence with which a file of these bytes is refused, without the file's name."""

    def sentence(code):
        with pytest.raises(InputError) as caught:
            read(code)
        said = str(caught.value)
        assert said.startswith(f"{tmp_path / 'a.pth.tar'}: ")
        assert "\n" not in said
        assert len(said) < 400
        return said.removeprefix(f"{tmp_path / 'a.pth.tar'}: ")

    return sentence


def same(found, expected):
    """Whether what was read is what was written, with types that JSON and PyTorch know."""
    match expected:
        case torch.Tensor():
            return found.dtype == expected.dtype and found.device.type == "cpu" and torch.equal(found, expected)
        case dict():
            return (
                isinstance(found, dict)
                and list(found) == list(expected)
                and all(same(found[name], expected[name]) for name in expected)
            )
        case list() | tuple():
            return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
        case argparse.Namespace():
            return same(found, vars(expected))
        case np.generic():
            return type(found) is type(expected.item()) and found == expected
    return found == expected and isinstance(expected, type(found))


@pytest.mark.parametrize("location", ["cuda:0", "cpu"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("model", ["scan", "pfan", "sgraf"])
def test_the_old_layout_of_python_2(tmp_path, model, version, location):
    """Tensors that share a storage, settings, a NumPy number, byte strings, longs; storages on a GPU that is not
    here."""
    content = published_checkpoint(model)
    path = write_old_layout(tmp_path / "model_best.pth.tar", content, version=version, location=location)
    found = read_checkpoint(path)
    assert same(found, content)
    assert type(found["best_rsum"]) is float
    assert type(found["opt"]["max_violation"]) is bool
    assert type(found["opt"]["batch_size"]) is int


def test_what_is_read_is_what_pytorch_reads(tmp_path):
    path = write_old_layout(tmp_path / "a.pth.tar", published_checkpoint("scan"), location="cpu")
    theirs = torch.load(path, weights_only=False, encoding="latin1")
    assert same(read_checkpoint(path), theirs)


@pytest.mark.parametrize("is_zip", [False, True])
def test_both_layouts_as_pytorch_writes_them_now(tmp_path, is_zip):
    content = {
        **published_checkpoint("sgraf"),
        "Eiters": 123_456,
        "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
        "double": torch.tensor(2.5, dtype=torch.float64),
        "brain": torch.tensor([[1.5]], dtype=torch.bfloat16),
        "small": torch.tensor([-3, 4], dtype=torch.int8),
        "empty": torch.empty(0),
        "numbers": (
            np.float32(0.5),
            np.int64(-7),
            np.bool_(True),
            2**70,
            -1,
            -(2**31),
            -(2**40),
            70_000,
            1e-300,
            None,
            "öl",
            "",
        ),
        "size": torch.zeros(2, 3).size(),
        "parameter": nn.Parameter(torch.arange(3.0)),
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    found = read_checkpoint(tmp_path / "a.pth")
    content["size"] = (2, 3)
    content["parameter"] = content["parameter"].data
    assert same(found, content)


def test_bytes_of_python_2_that_are_no_ascii(tmp_path, read):
    """They stand for themselves, so that the eight bytes of any number survive as text."""
    assert read(encoded({"path": "/données/".encode()}, {}))["path"].encode("latin-1") == "/données/".encode()
    for value in (np.float64(-1.5e-300), np.int64(2**62 + 12345), np.uint32(2**31 + 0x0A0B), np.float16(1.5)):
        path = write_old_layout(tmp_path / "a.pth.tar", {"best_rsum": value})
        assert read_checkpoint(path)["best_rsum"] == value.item()


LAYOUTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4), max_size=3),
        st.booleans(),
        st.integers(0, 2),
        st.sampled_from([torch.float32, torch.int64]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LAYOUTS, st.booleans())
def test_tensors_however_they_lie_in_their_storages(tmp_path, tensors, is_zip):
    """Of any shape, transposed, or a part of a longer one."""
    made = []
    for place, (shape, is_transposed, cut, dtype) in enumerate(tensors):
        tensor = (torch.arange(1000 * place, 1000 * place + 125).to(dtype))[: int(np.prod(shape))].reshape(shape)
        tensor = tensor.t() if is_transposed and tensor.dim() == 2 else tensor
        made.append(tensor[cut:] if tensor.dim() else tensor)
    torch.save(made, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    assert same(read_checkpoint(tmp_path / "a.pth"), made)


def test_storages_that_are_parts_of_another(read):
    """PyTorch 0.3 knew storages that look at a part of another one."""
    part = storage(view=("view", 2, 3))
    assert read(encoded({"a": rebuilt(part, 1), "b": rebuilt(storage(), 1)})) == {
        "a": AsList([3, 4]),
        "b": AsList([1, 2]),
    }


class AsList(list):
    def __eq__(self, other):
        return other.tolist() == list(self)

    __hash__ = None  # type: ignore[assignment]


def test_parameters(read):
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (rebuilt(storage()), True, HOOKS))
    assert read(encoded([parameter])) == [AsList([0, 1])]


HARMFUL = [
    ("os", "system", "touch {}"),
    ("posix", "system", "touch {}"),
    ("subprocess", "check_output", "touch {}"),
    ("__builtin__", "eval", "open('{}', 'w')"),
    ("builtins", "exec", "open('{}', 'w')"),
    ("io", "open", "{}"),
    ("builtins", "getattr", "{}"),
    ("numpy", "load", "{}"),
    ("numpy.core.multiarray", "_reconstruct", "{}"),
    ("torch", "load", "{}"),
    ("torch.storage", "_load_from_bytes", "{}"),
    ("functools", "partial", "{}"),
    ("collections", "defaultdict", "{}"),
    ("xattn.runs.imported.unpickle", "read_checkpoint", "{}"),
    ("argparse", "Namespace.__init__", "{}"),
    ("torch.nn.modules.linear", "Linear", "{}"),
]


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("code", [pickle.REDUCE, pickle.NEWOBJ])
@pytest.mark.parametrize(("module", "name", "argument"), HARMFUL)
def test_nothing_that_a_file_asks_for_is_run(tmp_path, refused, module, name, argument, code, is_zip):
    """Wherever it asks for it: as a value, or among the attributes of the settings."""
    witness = tmp_path / "witness"
    call = Call(Global(module, name), (argument.format(witness),), None, code)
    for contents in (call, {"opt": Call(Global("argparse", "Namespace"), (), {"a": call}, pickle.NEWOBJ)}):
        said = refused(zipped(Writer().dumps(contents)) if is_zip else encoded(contents))
        assert (
            said
            == f"asks for '{module}.{name}', which no checkpoint of tensors and settings needs, so it is not loaded"
        )
    assert not witness.exists()


class Harmful:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


@pytest.mark.parametrize("is_zip", [False, True])
def test_objects_that_pytorch_would_run(tmp_path, is_zip):
    witness = tmp_path / "witness"
    torch.save({"opt": Harmful(str(witness))}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=re.escape("asks for 'posix.mkdir'")):
        read_checkpoint(tmp_path / "a.pth")
    assert not witness.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert witness.exists(), "or this test shows nothing"


@pytest.mark.parametrize("part", [0, 1, 2, 4])
def test_nothing_is_run_in_any_of_the_five_pickles(tmp_path, refused, part):
    call = Call(Global("os", "system"), (f"touch {tmp_path / 'witness'}",))
    header = [Long(MAGIC), 1001, {"little_endian": True}, {}, []]
    header[part] = call
    code = b"".join(Writer().dumps(value) for value in header)
    assert refused(code).startswith("asks for 'os.system'" if part else "expected a checkpoint that torch.save wrote")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("array", [np.array([object()]), np.arange(3), np.array("text")])
@pytest.mark.parametrize("is_zip", [False, True])
def test_arrays_of_numpy_are_no_part_of_a_checkpoint(tmp_path, array, is_zip):
    torch.save({"a": array}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match=r"asks for 'numpy\._?core\.multiarray\._reconstruct'"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("code", [b"O8", b"U4", b"V8", b"M8", b"f16", b"x"])
def test_a_numpy_number_of_another_kind(refused, code):
    kind = Call(Global("numpy", "dtype"), (code, 0, 1), (3, "<", None, None, None, -1, -1, 0))
    number = Call(Global("numpy.core.multiarray", "scalar"), (kind, b"12345678"))
    assert refused(encoded(number)) == "holds a NumPy value that is no single number"


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (
            Call(Global("numpy", "dtype"), ("f8", 0, 1), (3, ">", None)),
            "holds a NumPy number that is not little-endian",
        ),
        (Call(Global("numpy", "dtype"), ("f8", 0, 1), {}), "holds a NumPy number that is not little-endian"),
        (
            Call(Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8", 0, 1)), b"1234567")),
            "holds a NumPy number of the wrong length",
        ),
        (
            Call(Global("numpy.core.multiarray", "scalar"), ("f8", b"12345678")),
            "holds a NumPy number of the wrong length",
        ),
        (Call(Global("_codecs", "encode"), ("a", "rot13")), "holds bytes that are not written as Latin-1 text"),
        (
            Call(Global("collections", "OrderedDict"), (3,)),
            "holds an OrderedDict of something that is no list of pairs",
        ),
        (
            Call(Global("collections", "OrderedDict"), ([[(1,), 2]],)),
            "is damaged: it holds a dictionary whose keys are neither text nor whole numbers",
        ),
        (Call(Global("torch", "Size"), (3,)), "is damaged: a torch.Size of no sizes"),
        (
            Call(Global("torch._utils", "_rebuild_parameter"), (3, True, {})),
            "is damaged: a parameter without its tensor",
        ),
        (
            Call(Global("torch._utils", "_rebuild_tensor"), (3, 0, (1,), (1,))),
            "is damaged: a tensor is described as none can be",
        ),
        (
            rebuilt(storage(), 0, (2,), (1,), False, HOOKS, {"neg": True}),
            "is damaged: a tensor is described as none can be",
        ),
        (Stored(("module", "a")), "is damaged: a tensor lies in what is no storage"),
        (Stored(storage(kind="torch.FloatStorage")), "is damaged: a tensor lies in what is no storage"),
        (Stored(storage(kind=Global("torch", "Size"))), "is damaged: a tensor lies in what is no storage"),
    ],
)
def test_arguments_that_do_not_fit(refused, contents, said):
    assert refused(encoded(contents)) == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"ccollections\nOrderedDict\n}b", "attributes are set of what has none"),  # would change the class for all
        (b"ccollections\nOrderedDict\n)R]b", "attributes are set of what has none"),
        (b"]}b", "attributes are set of what has none"),
        (b"ctorch\nFloatStorage\n)R", "something is called that is no function"),
        (b"U\x01a)R", "something is called that is no function"),
        (b"ccollections\nOrderedDict\n]R", "something is called that is no function"),
        (b")Na", "something is appended to what is no list"),
        (b"(N.", "values are left over"),
        (b"(.", "a value is missing"),
        (b"NN.", "values are left over"),
        (b"(NN", "values are left over"),
        (b"a", "a value is missing"),
        (b"R", "a value is missing"),
        (b"(K\x01a", "a value is missing"),
        (b"e", "a mark is missing"),
        (b"(q\x00", "a value is missing"),
        (b"]](a", "a value is missing"),
        (b"h\x07", "a value is used before it is made"),
        (b"}(Nu", "something is put into what is no dictionary"),
        (b"](NNu", "something is put into what is no dictionary"),
        (b"X\x02\x00\x00\x00\xff\xfe", "text is not UTF-8"),
        (b"c" + b"a" * 300 + b"\nb\n", "a name does not end"),
        (b"\x82\x01", "the instruction 0x82 is not one that torch.save writes"),  # the extension registry
        (b"cos\x1b[2J\nsystem\n", "a name has characters that no name has"),
        (b"NQ", "a stored value is named where none can be"),
        (b"U\x01aQ", "a stored value is named where none can be"),
        (b"P1\n", "the instruction 0x50 is not one that torch.save writes"),
        (b"i__builtin__\neval\n", "the instruction 0x69 is not one that torch.save writes"),
        (b"S'a'\n", "the instruction 0x53 is not one that torch.save writes"),
        (b"}(]K\x01u", "it holds a dictionary whose keys are neither text nor whole numbers"),
    ],
)
def test_instructions_that_make_no_sense(refused, code, said):
    assert re.fullmatch(rf"is damaged( at byte \d+)?: {re.escape(said)}", refused(encoded(Raw(code))))


def test_other_protocols_of_pickle(refused):
    data = pickle.dumps({"a": 1}, protocol=4)
    assert refused(zipped(data)) == "is written in pickle protocol 4, but torch.save writes protocol 2"


def test_an_instruction_for_endless_memory_gets_none(refused):
    """PyTorch and `pickle` make room for as many values as an instruction of five bytes says."""
    tracemalloc.start()
    refused(encoded(Raw(b"Nr\xff\xff\xff\xff00")))
    refused(encoded(Raw(b"T\xff\xff\xff\x7f")))
    refused(encoded(Raw(b"X\xff\xff\xff\xff")))
    refused(encoded(rebuilt(storage(2**40), 0, (2**40,), (1,)), {"k": torch.zeros(1)}))
    refused(encoded(rebuilt(storage(), 0, (2**40,), (0,))))
    refused(zipped(Writer().dumps(rebuilt(storage(2**40), 0, (2**40,), (1,))), {"k": b"1234"}))
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_values_nested_ever_deeper(read, refused):
    """To compare, print or hash them can end the process."""
    depth = 5_000
    assert read(encoded(Raw(b"]" * depth + b"a" * (depth - 1)), {}))
    said = refused(encoded(Raw(b"}" + b")" + b"\x85" * depth + b"Ns"), {}))
    assert said == "is damaged: it holds a dictionary whose keys are neither text nor whole numbers"
    said = refused(encoded({"a": Stored((")" * 3, Raw(b")" + b"\x85" * depth)))}, {}))
    assert said == "is damaged: a tensor lies in what is no storage"


def test_a_value_within_itself_comes_to_an_end(read):
    found = read(encoded(Raw(b"]q\x01h\x01a"), {}))
    assert found[0] is found


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (5, (2,), (1,)),
        (7, (0,), (1,)),
        (-1, (2,), (1,)),
        (0, (7,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (2, 3), (1, -1)),
        (0, (-2,), (1,)),
        (0, (2,), (1, 1)),
        (0, (3, 3), (1, 1)),
        (0, (7,), (0,)),
        (0, (2**70,), (1,)),
        (0, (1,), (2**70,)),
        (0, (0, 2**70), (1, 1)),
        (0, (1,) * 9, (1,) * 9),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, (2,), (None,)),
        (2**70, (2,), (1,)),
    ],
)
def test_tensors_beyond_their_storage(refused, offset, size, stride):
    """Or such as would hold more elements than are there."""
    assert (
        refused(encoded(rebuilt(storage(), offset, size, stride)))
        == 'is damaged: a tensor does not lie within the 6 elements of storage "k"'
    )


@pytest.mark.parametrize(
    "view", [("v", 2, 5), ("v", -1, 2), ("v", 7, 0), ("v", 3, -2), ("v", 1), 3, ("v", "a", "b"), ("v", 0, 2, 3)]
)
def test_parts_beyond_their_storage(refused, view):
    assert (
        refused(encoded(rebuilt(storage(view=view), 0, (1,)))) == 'is damaged: a part of storage "k" reaches beyond it'
    )


@pytest.mark.parametrize("elements", [-1, 2**62, 2**70, 10_000])
def test_storages_larger_than_the_file(refused, elements):
    said = refused(encoded(rebuilt(storage(elements), 0, (1,))))
    assert said == f'is damaged: storage "k" should have {elements} elements, which is more than the whole file'


def test_storages_that_disagree_with_the_contents(refused):
    tensor = rebuilt(storage())
    assert (
        refused(encoded(tensor, {"k": torch.zeros(5)})) == 'is damaged: storage "k" has 5 elements, but should have 6'
    )
    assert (
        refused(encoded(tensor, {"k": torch.zeros(7)})) == 'is damaged: storage "k" has 7 elements, but should have 6'
    )
    said = "is damaged: the storages that follow are not those that its tensors lie in"
    assert refused(encoded(tensor, {"k": torch.zeros(6), "l": torch.zeros(6)})) == said
    assert refused(encoded(tensor, {"l": torch.zeros(6)})) == said
    for keys in ([], ["k", "k"], "k", [3], None, [["k"]]):
        assert refused(encoded(tensor, keys=Raw(b"N") if keys is None else keys)) == said
    twice = [tensor, rebuilt(storage(5))]
    assert refused(encoded(twice)) == 'is damaged: storage "k" is declared twice, differently'
    other = [tensor, rebuilt(storage(kind=Global("torch", "LongStorage")))]
    assert refused(encoded(other)) == 'is damaged: storage "k" is declared twice, differently'


def test_a_key_that_is_long_and_has_lines(refused):
    said = refused(encoded(rebuilt(storage(10_000, key="a\nb" * 1000)), {"k": torch.zeros(6)}))
    assert said.startswith('is damaged: storage "a\\nba\\nb')


def test_headers_of_other_machines_and_versions(refused):
    said = "was written by a machine that is not little-endian"
    assert refused(encoded({}, {}, header=[Long(MAGIC), 1001, {"little_endian": False}])) == said
    assert refused(encoded({}, {}, header=[Long(MAGIC), 1001, [1]])) == said
    assert (
        refused(encoded({}, {}, header=[Long(MAGIC), 1002, {}]))
        == "is written in another protocol of torch.save's old layout than 1001"
    )
    assert refused(zipped(Writer().dumps({}), byteorder=b"big")) == said


def test_zips(read, refused):
    data = Writer().dumps([rebuilt(storage()[:5])])
    content = torch.arange(6.0).numpy().tobytes()
    assert read(zipped(data, {"k": content}, byteorder=b"little", version=b"3\n")) == [AsList([0, 1])]
    for storages in ({}, {"l": content}, {"k": content[:-1]}, {"k": content + b"0"}, {"k": b""}):
        assert refused(zipped(data, storages)) == 'is damaged: storage "k" is missing or not of 6 elements'
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("archive/a.txt", "a")
    assert (
        refused(code.getvalue())
        == "expected a checkpoint that torch.save wrote, but it is a zip archive without data.pkl"
    )
    with zipfile.ZipFile(code, "a") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("b/data.pkl", data)
    assert (
        refused(code.getvalue())
        == "expected a checkpoint that torch.save wrote, but it is a zip archive without data.pkl"
    )


def test_a_zip_of_more_than_it_holds(refused):
    """Compressed, a few bytes can stand for any number."""
    code = io.BytesIO()
    data = Writer().dumps([rebuilt(storage(1000)[:5])])
    with zipfile.ZipFile(code, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/k", np.random.default_rng(0).bytes(4000))
    said = "is damaged: its parts are compressed or overlap, which torch.save does not do"
    assert refused(code.getvalue()) == said
    whole = zipped(data, {"k": bytes(4000), "l": bytes(4000)})
    cut = whole.rfind(b"PK\x03\x04")
    listed = whole.find(b"PK\x01\x02")
    end = whole.rfind(b"PK\x05\x06")
    shorter = (
        whole[:cut] + whole[listed : end + 16] + struct.pack("<I", cut) + whole[end + 20 :]
    )  # without the second storage
    assert refused(shorter) == said


SHORT = [b"\x80", b"PK", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"]


@pytest.mark.parametrize("code", [*SHORT, b"", b"\x80\x02}q\x00.", b"a text\n", b"\xff\xd8\xff\xe0JPEG"])
def test_files_of_another_kind(refused, code):
    nothing = "expected a checkpoint that torch.save wrote, but the file does not begin as one"
    assert refused(code) == ("is cut short: it ends after its first bytes" if code in SHORT else nothing)


def test_a_tar_archive_whatever_the_name_says(tmp_path):
    with tarfile.open(tmp_path / "model_best.pth.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(InputError, match="the file does not begin as one"):
        read_checkpoint(tmp_path / "model_best.pth.tar")


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "a.pth.tar")
    assert str(caught.value) == f"{tmp_path / 'a.pth.tar'}: the checkpoint cannot be read (No such file or directory)"
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "pipe", "a named pipe")):
        with pytest.raises(InputError) as caught:
            read_checkpoint(path)
        assert str(caught.value) == f"{path}: expected a regular file, but this is {kind}"


def whole_file(is_zip):
    """A file with one of everything."""
    tensors = OrderedDict([("fc.weight", torch.arange(6.0).view(2, 3).t()), ("count", torch.tensor(7))])
    content = {
        "model": [tensors],
        "best_rsum": np.float64(1.5),
        "opt": argparse.Namespace(margin=0.2, path="./data", max_violation=True),
    }
    if not is_zip:
        return OldLayout(content).encode()
    code = io.BytesIO()
    torch.save(content, code)
    return code.getvalue()


@pytest.mark.parametrize("is_zip", [False, True])
def test_cut_short_anywhere(refused, is_zip):
    """One sentence, whatever is missing; in the old layout, one that says so."""
    whole = whole_file(is_zip)
    places = {*range(30), *np.linspace(30, len(whole) - 1, 40).astype(int), *range(len(whole) - 60, len(whole))}
    for place in sorted(places):
        said = refused(whole[:place])
        if place and not is_zip:
            assert "is cut short" in said
        elif place > 4:
            assert said == "is damaged or cut short: it is a zip archive that cannot be read"


def test_contents_without_end(refused, monkeypatch):
    """More than any checkpoint lists are not read."""
    monkeypatch.setattr(unpickle, "_LARGEST_PICKLE", 10_000)
    assert refused(encoded(Raw(b"]" * 9_000 + b"a" * 8_999), {})).startswith(
        "is cut short: it ends within its list of contents"
    )


WHOLE = {is_zip: whole_file(is_zip) for is_zip in (False, True)}
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)
UNBOTHERED = {"suppress_health_check": [HealthCheck.function_scoped_fixture]}


def read_or_refused(path):
    """Either it can be read, or it is refused with a sentence; nothing else happens."""
    try:
        read_checkpoint(path)
    except InputError as error:
        said = str(error)
    else:
        return
    assert said.startswith(f"{path}: ")
    assert "\n" not in said


@pytest.mark.parametrize("is_zip", [False, True])
@settings(max_examples=150, **UNBOTHERED)
@given(flips=FLIPS)
def test_bytes_that_were_changed(tmp_path, is_zip, flips):
    whole = bytearray(WHOLE[is_zip])
    for place, flip in flips:
        whole[int(place * len(whole))] ^= flip
    (tmp_path / "a.pth.tar").write_bytes(whole)
    read_or_refused(tmp_path / "a.pth.tar")


@settings(max_examples=150, **UNBOTHERED)
@given(st.binary(max_size=60))
def test_any_program_at_all(tmp_path, program):
    """Contents of random instructions."""
    (tmp_path / "a.pth.tar").write_bytes(encoded(Raw(program), {}))
    read_or_refused(tmp_path / "a.pth.tar")


def test_ordered_dictionaries_of_both_pythons(read):
    """As a list of lists, or empty and then filled; their metadata is dropped."""
    two = Call(Global("collections", "OrderedDict"), ([["b", 1], ["a", 2]],), {"_metadata": 3})
    three = Raw(b"ccollections\nOrderedDict\n)R(U\x01bK\x01U\x01aK\x02u}U\x01cK\x03sb")
    found = read(encoded([two, three], {}))
    assert [list(each.items()) for each in found] == [[("b", 1), ("a", 2)]] * 2
    assert OrderedDict(found[0]) == OrderedDict([("b", 1), ("a", 2)])
