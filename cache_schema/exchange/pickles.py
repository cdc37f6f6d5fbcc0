"""Foreign pickles, read as data: numpy arrays and builtins, and nothing else.

A pickle is a program. `pickle.Unpickler` runs it, whatever class or function it names; here nothing of it is run.
`pickletools`, the standard library's disassembler, says what the operations are, and those that build plain data are
carried out below. A name in a pickle is never imported: the few that a pickled numpy array or a builtin needs have a
meaning of their own (`pickled_values.CALLS`), and every other is refused by name, as are objects, persistent ids and
extension codes. A pickle's size in memory is bounded by that of the file, since only bytes in it become numbers.
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import DataError, first_line
from cache_schema.exchange.pickled_values import CALLS, TOKENS, Name, Pending, RefusedPickle, frozen_set, plain_key

MAX_BYTES = 64 << 30
"""A larger pickle is refused: all of it would have to fit into memory."""

_PLAIN = (str, bytes, bytearray, int, float, complex, type(None), np.generic)


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
            raise RefusedPickle(f"{len(data) - end} bytes follow its end")
        return machine.result()
    except RefusedPickle as error:
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
            raise RefusedPickle("it does not end with one value")
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
            raise RefusedPickle(f"it holds {_REFUSED.get(name, f'the operation {name}')}, which is never read")

    def above_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise RefusedPickle("a mark is missing")

    def take(self, count: int) -> list[Any]:
        """Take `count` values off the stack."""
        if len(self.stack) < count:
            raise RefusedPickle("a value is missing")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        if any(value is _MARK for value in values):
            raise RefusedPickle("a value is missing")
        return values

    def top(self, kind: type) -> Any:
        """The last value, which must be a `kind`."""
        if not self.stack or type(self.stack[-1]) is not kind:
            raise RefusedPickle(f"something is added to what is no {kind.__name__}")
        return self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedPickle("a value is missing")
        self.memo[index] = self.stack[-1]
        if isinstance(self.stack[-1], Pending):
            self.stack[-1].memo.append(index)

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def fill(self, pairs: list[Any]) -> None:
        target = self.top(dict)
        if len(pairs) % 2:
            raise RefusedPickle("a dictionary's value is missing")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[plain_key(key)] = value

    def name(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        if full not in CALLS and full not in TOKENS:
            raise RefusedPickle(f"it names {full!r}, and only numpy arrays and builtins are admitted")
        self.stack.append(Name(full))

    def reduce(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, Name) or function.name not in CALLS or type(arguments) is not tuple:
            raise RefusedPickle("it calls what is no function of numpy arrays and builtins")
        self.stack.append(CALLS[function.name](*arguments))

    def build(self) -> None:
        pending, state = self.take(2)
        if not isinstance(pending, Pending):
            raise RefusedPickle("it sets the state of what is no array")
        value = pending.fill(state)
        self.stack.append(value)
        for index in pending.memo:
            if self.memo.get(index) is pending:
                self.memo[index] = value


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
            raise RefusedPickle("it holds a name or an unfinished array where a value belongs")


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
    "FROZENSET": lambda m, _: m.stack.append(frozen_set(m.above_mark())),
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
    machine.top(set).update(map(plain_key, items))
