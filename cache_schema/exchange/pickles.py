"""Foreign pickles, read as data: numpy arrays and builtins, and nothing else.

A pickle is a program. `pickle.Unpickler` runs it, whatever class or function it names; here nothing of it is run.
`pickletools`, the standard library's disassembler, says what the operations are, and those that build plain data are
carried out below. A name in a pickle is never imported: the few that a pickled numpy array or a builtin needs have a
meaning of their own here (`_CALLS`), and every other is refused by name, as are objects, persistent ids and
extension codes. A pickle's size in memory is bounded by that of the file, since only bytes in it become numbers.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line

MAX_BYTES = 64 << 30
"""A larger pickle is refused: all of it would have to fit into memory."""

_PLAIN_KEYS = (str, bytes, int, float, bool, type(None), np.str_, np.integer, np.floating)
_PLAIN = (str, bytes, bytearray, int, float, complex, type(None), np.generic)
_DTYPE = re.compile(r"[|<>=]?(?:\?|[biufcSU][0-9]{1,9}|O8?|[bhilqBHILQefdFD])")


class _Refused(Exception):  # noqa: N818 - a reason on its way to a DataError
    """What is wrong with the pickle."""


class _Name:
    """A global that the pickle names; it stands for itself."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Pending:
    """An array or a dtype between the operation that makes it and the one that fills it."""

    def __init__(self, fill: Callable[[Any], Any]) -> None:
        self.fill = fill
        self.memo: list[int] = []


_MARK = object()


def read_pickle(path: Path) -> Any:
    """What a pickle file holds, in numpy arrays, numpy scalars and builtins.

    Raises:
        DataError: it cannot be read, is no pickle, is too large, or holds anything else; code in it is never run.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} has {size:,} bytes, and a pickle of more than {MAX_BYTES:,} is not read.")
        if not size:
            raise DataError(f"{path} is empty.")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return unpickle(data, str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error


def unpickle(data: Any, where: str) -> Any:
    """What the pickle in `data` (bytes, or a file in memory) holds; `where` names it. Errors as in `read_pickle`."""
    machine = _Machine()
    try:
        end = 0
        for operation, argument, place in pickletools.genops(data):
            machine.step(operation.name, argument)
            end = (place or 0) + 1
        if end != len(data):
            raise _Refused(f"{len(data) - end} bytes follow its end")
        return machine.result()
    except _Refused as error:
        raise DataError(f"{where}: {error}. Nothing of it was run or read.") from error
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError, MemoryError) as error:
        raise DataError(
            f"{where} is no pickle of arrays and builtins, or is damaged ({type(error).__name__}: {first_line(error)})."
        ) from error


class _Machine:
    """The pickle machine, for operations that build plain data.

    Attributes:
        stack: values not used yet, marks among them.
        memo: values that later operations refer to.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        """The one value that is left."""
        if len(self.stack) != 1:
            raise _Refused("it does not end with one value")
        _require_plain(self.stack[0])
        return self.stack[0]

    def step(self, name: str, argument: Any) -> None:
        """Carry out one operation."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _IGNORED:
            return
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise _Refused(f"it holds {_REFUSED.get(name, f'the operation {name}')}, which is never read")

    def above_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise _Refused("a mark is missing")

    def take(self, count: int) -> list[Any]:
        """Take `count` values off the stack."""
        if len(self.stack) < count:
            raise _Refused("a value is missing")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        if any(value is _MARK for value in values):
            raise _Refused("a value is missing")
        return values

    def top(self, kind: type) -> Any:
        """The last value, which must be a `kind`."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise _Refused(f"something is added to what is no {kind.__name__}")
        return self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise _Refused("a value is missing")
        self.memo[index] = self.stack[-1]
        if isinstance(self.stack[-1], _Pending):
            self.stack[-1].memo.append(index)

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def fill(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        if len(pairs) % 2:
            raise _Refused("a dictionary's value is missing")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_plain_key(key)] = value

    def name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        if full not in _CALLS and full not in _TOKENS:
            raise _Refused(f"it names {full!r}, and only numpy arrays and builtins are admitted")
        self.stack.append(_Name(full))

    def reduce(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, _Name) or function.name not in _CALLS or type(arguments) is not tuple:
            raise _Refused("it calls what is no function of numpy arrays and builtins")
        self.stack.append(_CALLS[function.name](*arguments))

    def build(self) -> None:
        pending, state = self.take(2)
        if not isinstance(pending, _Pending):
            raise _Refused("it sets the state of what is no array")
        value = pending.fill(state)
        self.stack.append(value)
        for index in pending.memo:
            if self.memo.get(index) is pending:
                self.memo[index] = value


def _plain_key(key: Any) -> Any:
    """A key or a set's element whose hash costs nothing: plain, or a tuple of plain ones."""
    inner = key if type(key) is tuple else (key,)
    if not all(isinstance(part, _PLAIN_KEYS) for part in inner):
        raise _Refused("a key or an element of a set is no plain value")
    return key


def _require_plain(value: Any) -> None:
    """Refuse names and unfinished arrays among the values; nothing is visited twice."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) is np.ndarray:
            if one.dtype.kind == "O" and id(one) not in seen:
                seen.add(id(one))
                waiting.extend(one.reshape(-1).tolist())
        elif type(one) in (list, tuple, dict, set, frozenset):
            if id(one) not in seen:
                seen.add(id(one))
                waiting.extend(one.values() if type(one) is dict else one)
        elif not isinstance(one, _PLAIN):
            raise _Refused("it holds a name or an unfinished array where a value belongs")


def _array(kind: Any, shape: Any, typecode: Any) -> _Pending:
    """`numpy._core.multiarray._reconstruct`: an empty array, which `BUILD` fills."""
    if not isinstance(kind, _Name) or kind.name != "numpy.ndarray":
        raise _Refused("it makes a subclass of numpy.ndarray")
    return _Pending(_filled_array)


def _filled_array(state: Any) -> NDArray[Any]:
    if type(state) is not tuple or len(state) not in (4, 5):
        raise _Refused("an array's state is not what numpy writes")
    shape, dtype, fortran, raw = state[-4:]
    if not isinstance(dtype, np.dtype):
        raise _Refused("an array has no dtype")
    order: Literal["C", "F"] = "F" if fortran else "C"
    if dtype.kind == "O":
        if type(raw) is not list or len(raw) != _count(shape):
            raise _Refused("an array of objects has a shape that does not fit")
        values = np.empty(len(raw), object)
        for index, value in enumerate(raw):
            values[index] = value
        return values.reshape(shape, order=order)
    return _from_buffer(raw, dtype, shape, order)


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    """`numpy._core.numeric._frombuffer`: an array over bytes that are in the pickle."""
    if isinstance(raw, str):
        raw = raw.encode("latin-1")
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, np.dtype) or dtype.kind == "O":
        raise _Refused("an array's numbers are not in the pickle")
    if order not in ("C", "F") or len(raw) != _count(shape) * dtype.itemsize or not dtype.itemsize:
        raise _Refused("an array has a shape that its bytes do not fill")
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _count(shape: Any) -> int:
    """Elements of an array of this shape."""
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape) or len(shape) > 16:
        raise _Refused("an array's shape is no shape")
    return math.prod(shape)


def _dtype(code: Any, align: Any = False, copy: Any = True) -> _Pending:
    """`numpy.dtype`: of bool, numbers, strings or objects; `BUILD` says the byte order."""
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise _Refused(f"an array is of type {code!r}, and only numbers, strings and objects are admitted")
    found = np.dtype(code)

    def fill(state: Any) -> np.dtype[Any]:
        if type(state) is not tuple or len(state) < 5 or any(field not in (None, ()) for field in state[2:5]):
            raise _Refused("an array has a structured type")
        return found.newbyteorder(state[1]) if state[1] in ("<", ">") else found

    return _Pending(fill)


def _scalar(dtype: Any, raw: Any) -> Any:
    """`numpy._core.multiarray.scalar`: one number or string."""
    return _from_buffer(raw, dtype, (1,))[0]


def _encoded(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`: how Python 3 writes bytes in the protocols of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("it calls '_codecs.encode' for something other than bytes")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


def _byte_array(*source: Any) -> bytearray:
    if len(source) == 2:
        return bytearray(_encoded(*source))
    if not all(isinstance(part, bytes) for part in source):
        raise _Refused("it makes a bytearray of something other than bytes")
    return bytearray(b"".join(source))


def _complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, float | int) or not isinstance(imaginary, float | int):
        raise _Refused("it makes a complex number of something other than numbers")
    return complex(real, imaginary)


def _set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple):
        raise _Refused("it makes a set of something other than a list")
    return {_plain_key(item) for item in items}


def _frozen_set(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


def _set_item(machine: _Machine, _: Any) -> None:
    pair = machine.take(2)
    machine.fill(pair)


def _append(machine: _Machine, _: Any) -> None:
    value = machine.take(1)
    machine.extend(value)


def _dict(machine: _Machine, _: Any) -> None:
    pairs = machine.above_mark()
    machine.stack.append({})
    machine.fill(pairs)


_CORES = ("numpy.core", "numpy._core")
_CALLS: dict[str, Callable[..., Any]] = {
    **{f"{core}.multiarray._reconstruct": _array for core in _CORES},
    **{f"{core}.multiarray.scalar": _scalar for core in _CORES},
    **{f"{core}.numeric._frombuffer": _from_buffer for core in _CORES},
    "numpy.dtype": _dtype,
    "_codecs.encode": _encoded,
    **{f"{module}.bytearray": _byte_array for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _empty_bytes for module in ("builtins", "__builtin__")},
    **{f"{module}.complex": _complex for module in ("builtins", "__builtin__")},
    **{f"{module}.set": _set for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _frozen_set for module in ("builtins", "__builtin__")},
}
"""What a pickle may name, and what is done instead of calling it."""
_TOKENS = ("numpy.ndarray",)
_IGNORED = ("PROTO", "FRAME", "STOP")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}
_VALUES = (
    frozenset(("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT"))
    | frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"))
    | frozenset(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"))
)
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.stack.append(m.above_mark()),
    "APPEND": _append,
    "APPENDS": lambda m, _: m.extend(m.above_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.take(3))),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.fill(m.above_mark()),
    "EMPTY_SET": lambda m, _: m.stack.append(set()),
    "ADDITEMS": lambda m, _: _add_items(m),
    "FROZENSET": lambda m, _: m.stack.append(_frozen_set(m.above_mark())),
    "GET": lambda m, index: m.get(index),
    "BINGET": lambda m, index: m.get(index),
    "LONG_BINGET": lambda m, index: m.get(index),
    "PUT": lambda m, index: m.put(index),
    "BINPUT": lambda m, index: m.put(index),
    "LONG_BINPUT": lambda m, index: m.put(index),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": lambda m, both: m.name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.take(2)),
    "REDUCE": lambda m, _: m.reduce(),
    "BUILD": lambda m, _: m.build(),
}
_REFUSED = {
    "INST": "an object of a class",
    "OBJ": "an object of a class",
    "NEWOBJ": "an object of a class",
    "NEWOBJ_EX": "an object of a class",
    "PERSID": "a persistent id",
    "BINPERSID": "a persistent id",
    "EXT1": "an extension code",
    "EXT2": "an extension code",
    "EXT4": "an extension code",
    "NEXT_BUFFER": "a buffer outside the pickle",
    "READONLY_BUFFER": "a buffer outside the pickle",
}


def _add_items(machine: _Machine) -> None:
    items = machine.above_mark()
    machine.top(set).update(map(_plain_key, items))
