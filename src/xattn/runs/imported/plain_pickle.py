"""Pickles as PyTorch's checkpoints hold them, read into plain values: nothing they name is imported, nothing they ask
for is called.

A pickle is a program for a small stack machine. This one knows the instructions of protocol 2 that `torch.save` has
written since PyTorch 0.1.12, under Python 2 and 3, and no more. It makes numbers, text, lists, tuples and dictionaries.
Where a pickle names a class or function, the name must be a key of `constructors`, whose function checks its arguments
itself.

Why not `pickle.Unpickler` with a `find_class` of our own: it lets a file set attributes of whatever `find_class`
returns, it makes room for as many memo slots as a file names (64 GB for an instruction of five bytes), and it hashes
tuples of any depth, which ends the process. Why not `torch.load`: see `xattn.runs.imported.unpickle`.
"""

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from xattn.runtime.errors import InputError

_LONGEST_NAME = 100

Constructor = Callable[[tuple[Any, ...]], Any]
"""Makes a value from the arguments that a pickle gives; raises `InputError` if they are not what it takes."""


class Global(NamedTuple):
    """A name that a pickle may use, as `module.name`."""

    name: str


class Namespace(dict[str | int, Any]):
    """The attributes of an `argparse.Namespace`."""


class NumberType(NamedTuple):
    """A NumPy data type of one number, little-endian, as a format of `struct`."""

    format: str


def read_pickle(
    data: bytes,
    start: int = 0,
    constructors: Mapping[str, Constructor | None] | None = None,
    persistent: Constructor | None = None,
) -> tuple[Any, int]:
    """Read one pickle.

    Args:
        data: holds the pickle and, maybe, more behind it.
        start: where the pickle begins.
        constructors: what `module.name` makes, for every name that the pickle may use; None: it may be named, but makes
            nothing.
        persistent: makes the value of a persistent id, given as a tuple.

    Returns:
        The value, and where the pickle ends. Text of Python 2 is decoded as Latin-1, so that it can also stand for its
        bytes.

    Raises:
        InputError: the pickle is cut short or damaged, uses another protocol or another name; the message has no file's
            name.
    """
    machine = _Machine(data, start, constructors or {}, persistent)
    return machine.run(), machine.position


class _Machine:
    def __init__(
        self, data: bytes, position: int, constructors: Mapping[str, Constructor | None], persistent: Constructor | None
    ) -> None:
        self.data = data
        self.position = position
        self.constructors = constructors
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self.take(1)) != pickle.STOP:
            self.step(code)
        value = self.pop()
        if self.stack or self.marks:
            self.damaged("values are left over")
        return value

    def step(self, code: bytes) -> None:
        match code:
            case pickle.PROTO:
                if (protocol := self.take(1)[0]) > 2:
                    raise InputError(f"is written in pickle protocol {protocol}, but torch.save writes protocol 2")
            case pickle.MARK:
                self.marks.append(len(self.stack))
            case pickle.NONE:
                self.stack.append(None)
            case pickle.NEWTRUE | pickle.NEWFALSE:
                self.stack.append(code == pickle.NEWTRUE)
            case pickle.BININT | pickle.BININT1 | pickle.BININT2:
                self.stack.append(self.number({pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H"}[code]))
            case pickle.LONG1:
                self.stack.append(int.from_bytes(self.take(self.number("<B")), "little", signed=True))
            case pickle.BINFLOAT:
                self.stack.append(self.number(">d"))
            case pickle.SHORT_BINSTRING | pickle.BINSTRING:
                self.stack.append(
                    self.take(self.number("<B" if code == pickle.SHORT_BINSTRING else "<I")).decode("latin-1")
                )
            case pickle.BINUNICODE:
                try:
                    self.stack.append(self.take(self.number("<I")).decode("utf-8"))
                except UnicodeDecodeError:
                    self.damaged("text is not UTF-8")
            case pickle.EMPTY_TUPLE:
                self.stack.append(())
            case pickle.EMPTY_LIST:
                self.stack.append([])
            case pickle.EMPTY_DICT:
                self.stack.append({})
            case pickle.TUPLE1 | pickle.TUPLE2 | pickle.TUPLE3:
                length = code[0] - pickle.TUPLE1[0] + 1
                self.stack.append(tuple(reversed([self.pop() for _ in range(length)])))
            case pickle.TUPLE:
                self.stack.append(tuple(self.pop_to_mark()))
            case pickle.APPEND:
                self.extend([self.pop()])
            case pickle.APPENDS:
                self.extend(self.pop_to_mark())
            case pickle.SETITEM:
                value, key = self.pop(), self.pop()
                self.fill([key, value])
            case pickle.SETITEMS:
                self.fill(self.pop_to_mark())
            case pickle.BINPUT | pickle.LONG_BINPUT:
                self.memo[self.number("<B" if code == pickle.BINPUT else "<I")] = self.top()
            case pickle.BINGET | pickle.LONG_BINGET:
                place = self.number("<B" if code == pickle.BINGET else "<I")
                if place not in self.memo:
                    self.damaged("a value is used before it is made")
                self.stack.append(self.memo[place])
            case pickle.GLOBAL:
                self.stack.append(self.named())
            case pickle.REDUCE | pickle.NEWOBJ:
                arguments, name = self.pop(), self.pop()
                self.stack.append(self.made(name, arguments))
            case pickle.BUILD:
                self.build(self.pop())
            case pickle.BINPERSID:
                self.stack.append(self.stored(self.pop()))
            case _:
                self.damaged(f"the instruction 0x{code[0]:02x} is not one that torch.save writes")

    def take(self, length: int) -> bytes:
        taken = self.data[self.position : self.position + length]
        if len(taken) < length:
            raise InputError("is cut short: it ends within its list of contents")
        self.position += length
        return taken

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.position)
        length = (len(self.data) if end < 0 else end) + 1 - self.position
        if length > _LONGEST_NAME:
            self.damaged("a name does not end")
        return self.take(length)[:-1].decode("latin-1")

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.damaged("a value is missing")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self.damaged("a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def extend(self, values: list[Any]) -> None:
        if type(target := self.top()) is not list:
            self.damaged("something is appended to what is no list")
        target.extend(values)

    def fill(self, keys_and_values: list[Any]) -> None:
        if type(target := self.top()) is not dict or len(keys_and_values) % 2:
            self.damaged("something is put into what is no dictionary")
        target.update(_pairs(zip(keys_and_values[::2], keys_and_values[1::2], strict=True)))

    def named(self) -> Global:
        name = f"{self.line()}.{self.line()}"
        if not re.fullmatch(r"[\w.]+", name, re.ASCII):
            self.damaged("a name has characters that no name has")
        if name not in self.constructors:
            raise InputError(
                f"asks for {name!r}, which no checkpoint of tensors and settings needs, so it is not loaded"
            )
        return Global(name)

    def made(self, name: Any, arguments: Any) -> Any:
        make = self.constructors.get(name.name) if isinstance(name, Global) else None
        if make is None or type(arguments) is not tuple:
            self.damaged("something is called that is no function")
        return make(arguments)

    def build(self, state: Any) -> None:
        target = self.top()
        if isinstance(target, Namespace) and type(state) is dict:
            target.update(_pairs(state.items()))
        elif isinstance(target, NumberType):
            match state:
                case (int(), str() as order, *_) if order in ("<", "|"):
                    return
            raise InputError("holds a NumPy number that is not little-endian")
        elif not (type(target) is dict and type(state) is dict):  # a state dictionary's metadata is dropped
            self.damaged("attributes are set of what has none")

    def stored(self, identity: Any) -> Any:
        if self.persistent is None or type(identity) is not tuple:
            self.damaged("a stored value is named where none can be")
        return self.persistent(identity)

    def damaged(self, what: str) -> NoReturn:
        raise InputError(f"is damaged at byte {self.position}: {what}")


def _pairs(pairs: Any) -> dict[str | int, Any]:
    """Pairs as a dictionary whose keys are text or whole numbers."""
    found = {}
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise InputError("is damaged: it holds a dictionary whose keys are neither text nor whole numbers")
        found[pair[0]] = pair[1]
    return found


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[str | int, Any]:
    match arguments:
        case ():
            return {}
        case (list() as pairs,):  # as Python 2 writes it
            return _pairs(pairs)
    raise InputError("holds an OrderedDict of something that is no list of pairs")


def _namespace(arguments: tuple[Any, ...]) -> Namespace:
    if arguments:
        raise InputError("holds an argparse.Namespace with arguments, which pickles do not have")
    return Namespace()


_FORMATS = {
    "f8": "<d",
    "f4": "<f",
    "f2": "<e",
    "i8": "<q",
    "i4": "<i",
    "u8": "<Q",
    "u4": "<I",
    "b1": "<?",
}
"""NumPy's names of the types of a number, and those of `struct`."""


def _number_type(arguments: tuple[Any, ...]) -> NumberType:
    match arguments:
        case (str() as code, *_) if code in _FORMATS:
            return NumberType(_FORMATS[code])
    raise InputError("holds a NumPy value that is no single number")


def _numpy_number(arguments: tuple[Any, ...]) -> float | int | bool:
    match arguments:
        case (NumberType(layout), str() as text) if len(text) == struct.calcsize(layout) and max(text) < "\u0100":
            return struct.unpack(layout, text.encode("latin-1"))[0]
    raise InputError("holds a NumPy number of the wrong length")


def _encoded(arguments: tuple[Any, ...]) -> str:
    """Bytes, which Python 3 writes as text to be encoded, as the Latin-1 text that the bytes of Python 2 are read
    as.
    """
    match arguments:
        case (str() as text, str() as encoding) if encoding in ("latin1", "latin-1"):
            return text
    raise InputError("holds bytes that are not written as Latin-1 text")


PLAIN: dict[str, Constructor | None] = {
    "collections.OrderedDict": _ordered_dict,
    "argparse.Namespace": _namespace,
    "numpy.dtype": _number_type,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
    "_codecs.encode": _encoded,
}
"""Constructors of the plain values in checkpoints: dictionaries, settings and single NumPy numbers."""
