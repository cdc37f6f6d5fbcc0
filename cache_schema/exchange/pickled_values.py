"""What a pickle may make besides plain values: numpy arrays, dtypes and scalars, bytes and sets.

Each function stands for one that a pickle names, checks what it is given, and is done instead of calling that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_PLAIN_KEYS = (str, bytes, int, float, bool, type(None), np.str_, np.integer, np.floating)
_DTYPE = re.compile(r"[|<>=]?(?:\?|[biufcSU][0-9]{1,9}|O8?|[bhilqBHILQefdFD])")


class RefusedPickle(Exception):  # noqa: N818 - a reason on its way to a DataError
    """What is wrong with the pickle."""


class Name:
    """A global that the pickle names; it stands for itself."""

    def __init__(self, name: str) -> None:
        self.name = name


class Pending:
    """An array or a dtype between the operation that makes it and the one that fills it."""

    def __init__(self, fill: Callable[[Any], Any]) -> None:
        self.fill = fill
        self.memo: list[int] = []


def plain_key(key: Any) -> Any:
    """A key or a set's element whose hash costs nothing: plain, or a tuple of plain ones."""
    inner = key if type(key) is tuple else (key,)
    if not all(isinstance(part, _PLAIN_KEYS) for part in inner):
        raise RefusedPickle("a key or an element of a set is no plain value")
    return key


def _array(kind: Any, shape: Any, typecode: Any) -> Pending:
    """`numpy._core.multiarray._reconstruct`: an empty array, which `BUILD` fills."""
    if not isinstance(kind, Name) or kind.name != "numpy.ndarray":
        raise RefusedPickle("it makes a subclass of numpy.ndarray")
    return Pending(_filled_array)


def _filled_array(state: Any) -> NDArray[Any]:
    if type(state) is not tuple or len(state) not in (4, 5):
        raise RefusedPickle("an array's state is not what numpy writes")
    shape, dtype, fortran, raw = state[-4:]
    if not isinstance(dtype, np.dtype):
        raise RefusedPickle("an array has no dtype")
    order: Literal["C", "F"] = "F" if fortran else "C"
    if dtype.kind == "O":
        if type(raw) is not list or len(raw) != _count(shape):
            raise RefusedPickle("an array of objects has a shape that does not fit")
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
        raise RefusedPickle("an array's numbers are not in the pickle")
    if order not in ("C", "F") or len(raw) != _count(shape) * dtype.itemsize or not dtype.itemsize:
        raise RefusedPickle("an array has a shape that its bytes do not fill")
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _count(shape: Any) -> int:
    """Elements of an array of this shape."""
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape) or len(shape) > 16:
        raise RefusedPickle("an array's shape is no shape")
    return math.prod(shape)


def _dtype(code: Any, align: Any = False, copy: Any = True) -> Pending:
    """`numpy.dtype`: of bool, numbers, strings or objects; `BUILD` says the byte order."""
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise RefusedPickle(f"an array is of type {code!r}, and only numbers, strings and objects are admitted")
    found = np.dtype(code)

    def fill(state: Any) -> np.dtype[Any]:
        if type(state) is not tuple or len(state) < 5 or any(field not in (None, ()) for field in state[2:5]):
            raise RefusedPickle("an array has a structured type")
        return found.newbyteorder(state[1]) if state[1] in ("<", ">") else found

    return Pending(fill)


def _scalar(dtype: Any, raw: Any) -> Any:
    """`numpy._core.multiarray.scalar`: one number or string."""
    return _from_buffer(raw, dtype, (1,))[0]


def _encoded(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`: how Python 3 writes bytes in the protocols of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedPickle("it calls '_codecs.encode' for something other than bytes")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


def _byte_array(*source: Any) -> bytearray:
    if len(source) == 2:
        return bytearray(_encoded(*source))
    if not all(isinstance(part, bytes) for part in source):
        raise RefusedPickle("it makes a bytearray of something other than bytes")
    return bytearray(b"".join(source))


def _complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, float | int) or not isinstance(imaginary, float | int):
        raise RefusedPickle("it makes a complex number of something other than numbers")
    return complex(real, imaginary)


def _set(items: Any = ()) -> set[Any]:
    if type(items) not in (list, tuple):
        raise RefusedPickle("it makes a set of something other than a list")
    return {plain_key(item) for item in items}


def frozen_set(items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(items))


_CORES = ("numpy.core", "numpy._core")
CALLS: dict[str, Callable[..., Any]] = {
    **{f"{core}.multiarray._reconstruct": _array for core in _CORES},
    **{f"{core}.multiarray.scalar": _scalar for core in _CORES},
    **{f"{core}.numeric._frombuffer": _from_buffer for core in _CORES},
    "numpy.dtype": _dtype,
    "_codecs.encode": _encoded,
    **{f"{module}.bytearray": _byte_array for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _empty_bytes for module in ("builtins", "__builtin__")},
    **{f"{module}.complex": _complex for module in ("builtins", "__builtin__")},
    **{f"{module}.set": _set for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": frozen_set for module in ("builtins", "__builtin__")},
}
"""What a pickle may name, and what is done instead of calling it."""
TOKENS = ("numpy.ndarray",)
