"""Foreign pickles are data: code in one never runs, whatever shape it has."""

from __future__ import annotations

import builtins
import collections
import functools
import os
import pickle
import pickletools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.errors import DataError
from cache_schema.exchange.npy_files import read_npy, read_npz
from cache_schema.exchange.pickles import read_pickle, unpickle

DATA: dict[str, Any] = {
    "text": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    "big endian": np.arange(3, dtype=">i4"),
    "empty": np.empty((0, 3)),
    "zero-dimensional": np.array({"a": {"emo": "joy", "val": np.float64(-0.5)}}, dtype=object),
    "objects": np.array([[np.ones(2), None], [b"x", [3]]], dtype=object),
    "strings": np.array(["a", "ünï"]),
    "bytes": np.array([b"a", b"bc"]),
    "numbers": [np.float32(3), np.int64(-4), np.bool_(True), 1.5, -7, 10**40, True, None, 2 + 1j],
    "plain": ("x", b"y", bytearray(b"z"), {1, 2}, frozenset({"q"}), (1, (2,))),
}


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that code in a pickle would make."""
    path = tmp_path / "pwned"
    yield path
    assert not path.exists(), "code in a pickle was run"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_builtins_come_back(protocol: int) -> None:
    found = unpickle(pickle.dumps(DATA, protocol), "data")
    assert repr(found) == repr(DATA)
    for key in ("text", "fortran", "big endian", "empty", "strings", "bytes"):
        assert found[key].dtype == DATA[key].dtype
        assert found[key].shape == DATA[key].shape


def test_names_of_numpy_1_and_python_2() -> None:
    old = pickle.dumps(np.arange(3.0), 2)
    assert b"numpy._core.multiarray" in old
    for data in (old.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"), old):
        np.testing.assert_array_equal(unpickle(data, "old"), np.arange(3.0))
    python_2 = b"(dp0\nS'a'\np1\nI1\nsS'b'\np2\n(lp3\nF0.5\nas."
    assert unpickle(python_2, "python 2") == {"a": 1, "b": [0.5]}
    raw = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
    raw += b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    raw += b"U\x08\x00\x00\x80?\x00\x00\x00\xc0tb."
    np.testing.assert_array_equal(unpickle(raw, "python 2"), np.array([1, -2], np.float32))


class Call:
    """Pickles as a call of `function` with `arguments`, and a state for `BUILD`."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


class Gadget:
    """A class whose state would be set by its own code."""

    def __setstate__(self, state: Any) -> None:
        Path(state["path"]).touch()


def exploits(path: Path) -> dict[str, Any]:
    touch = f"open({str(path)!r}, 'w').close()"
    gadget = Gadget()
    gadget.__dict__["path"] = str(path)
    holder = np.empty(2, object)
    holder[:] = [1.0, Call(os.system, f"touch {path}")]
    return {
        "os.system": Call(os.system, f"touch {path}"),
        "subprocess": Call(subprocess.Popen, ["touch", str(path)]),
        "eval": Call(builtins.eval, touch),
        "exec": Call(builtins.exec, touch),
        "open": Call(builtins.open, str(path), "w"),
        "import": Call(builtins.__import__, "os"),
        "getattr": Call(builtins.getattr, Call(builtins.__import__, "os"), "system"),
        "nested reduce": Call(list, Call(map, os.system, [f"touch {path}"])),
        "partial": Call(functools.partial, os.system, f"touch {path}"),
        "ordered dict": collections.OrderedDict(a=1),
        "setstate": gadget,
        "path": path,
        "in an array of objects": holder,
        "in a dictionary": {"train": {"id": ["a"], "text": Call(os.system, f"touch {path}")}},
        "numpy.load": Call(np.load, str(path), None, True),
        "numpy.fromfile": Call(np.fromfile, "/etc/passwd", np.uint8),
        "numpy.memmap": Call(np.memmap, str(path), np.uint8, "w+", 0, (1,)),
        "numpy.testing": Call(np.testing.assert_raises, ValueError, exec, touch),
        "numpy.dtype metadata": np.dtype("f4", metadata={"a": 1}),
        "structured": np.zeros(2, [("a", "f4"), ("b", "i4")]),
        "datetime": np.zeros(2, "M8[s]"),
        "a class": Gadget,
        "a function": os.system,
        "numpy.ndarray itself": np.ndarray,
        "masked array": np.ma.masked_array([1.0], [True]),
        "bytes of a size": Call(bytes, 1 << 40),
        "bytearray of a size": Call(bytearray, 1 << 40),
        "state of a function": Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state={"__class__": 1}),
        "state for a dtype": Call(np.dtype, "f4", False, True, state=("x",)),
        "array without its bytes": Call(
            np._core.multiarray._reconstruct,
            np.ndarray,
            (0,),
            b"b",
            state=(1, (1 << 40,), np.dtype("f8"), False, b"x"),
        ),
        "zeros from nothing": Call(np.zeros, (1 << 40,)),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", list(exploits(Path("x"))))
def test_code_in_a_pickle_never_runs(name: str, protocol: int, marker: Path) -> None:
    try:
        data = pickle.dumps({"x": exploits(marker)[name]}, protocol)
    except (pickle.PicklingError, TypeError) as error:
        pytest.skip(f"cannot be pickled: {error}")
    with pytest.raises(DataError, match="evil"):
        unpickle(data, "evil")


def test_the_exploits_are_real(tmp_path: Path) -> None:
    """Python's own unpickler does run them."""
    for name in ("os.system", "exec", "setstate", "nested reduce", "in an array of objects", "numpy.memmap"):
        path = tmp_path / name.replace(" ", "-")
        pickle.loads(pickle.dumps(exploits(path)[name]))
        assert path.exists()


HAND_MADE = {
    "INST": b"(S'touch {path}'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch {path}'\no.",
    "NEWOBJ": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)}\x92.",
    "nested attribute": b"\x80\x04\x8c\x05numpy\x8c\x0dctypeslib.ctypes\x93.",
    "name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch {path}\x85R.",
    "admitted name, other module": b"\x80\x04\x8c\x02os\x8c\x05dtype\x93.",
    "name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "persistent id": b"Psecret\n.",
    "binary persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "extension code": b"\x80\x02\x82\x01.",
    "state of a name": b"cnumpy\nndarray\n}S'a'\nI1\nsb.",
    "items for a name": b"cnumpy\nndarray\n(I1\nI2\nu.",
    "call of a list": b"]I1\n\x85R.",
    "dtype as a function": b"cnumpy\ndtype\ncnumpy\nndarray\n\x85R.",
    "result is a name": b"cnumpy\nndarray\n.",
    "unfinished array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R.",
    "codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "nothing": b".",
    "no end": b"]",
    "stack underflow": b"a.",
    "mark in a tuple": b"(\x85.",
    "unknown memo": b"g99\n.",
    "two values": b"I1\nI2\n.",
    "trailing": b"I1\n.I2\n.",
    "not a pickle": b"PK\x03\x04 and so on",
    "huge length": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "huge integer": b"\x8b\xff\xff\xff\x7fabc.",
    "decimal bomb": b"L" + b"9" * 100_000 + b"L\n.",
    "buffer outside": b"\x80\x05\x97.",
    "unhashable key": b"}]I1\ns.",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_pickles_are_refused(name: str, marker: Path) -> None:
    data = HAND_MADE[name].replace(b"{path}", str(marker).encode())
    with pytest.raises(DataError, match="evil"):
        unpickle(data, "evil")


def test_bombs_cost_no_more_than_their_bytes() -> None:
    memo = b"\x80\x02I1\nr\xff\xff\xff\xff."  # an index at the end of the memo
    assert unpickle(memo, "memo") == 1
    laughs = b"]q\x00" + b"".join(
        b"](" + b"h" + bytes([level]) + b"h" + bytes([level]) + b"eq" + bytes([level + 1]) for level in range(60)
    )
    # 2 ** 60 leaves by references: they are shared, and nobody walks them twice
    assert len(unpickle(laughs + b"0" * 60 + b".", "laughs")) == 0
    deep = b"]" * 1 + b"".join(b"]" for _ in range(200_000)) + b"a" * 200_000 + b"."
    assert len(unpickle(deep, "deep")) == 1
    tuples = b"}" + b")" + b"\x85" * 200_000 + b"I1\ns."
    with pytest.raises(DataError, match="no plain value"):
        unpickle(tuples, "hash of a deep tuple")
    with pytest.raises(DataError, match="shape"):
        unpickle(_array_of((1 << 47, 1 << 47), b""), "shape")


def _array_of(shape: tuple[int, ...], raw: bytes) -> bytes:
    return pickle.dumps(
        Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=(1, shape, np.dtype("f8"), False, raw))
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_any_damage_is_one_error_or_plain_data(data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps(DATA, data.draw(st.sampled_from([0, 2, 4, 5]))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            whole[at] = data.draw(st.integers(0, 255))
        else:
            whole[at:at] = data.draw(st.binary(max_size=6))
    try:
        found = unpickle(bytes(whole), "damaged")
    except DataError as error:
        assert str(error).startswith("damaged")
    else:
        assert isinstance(found, object)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes]), max_size=40), st.binary())
def test_any_operations_are_one_error_or_plain_data(operations: list[bytes], noise: bytes) -> None:
    for program in (b"".join(operations) + b".", b"".join(o + noise[:3] for o in operations) + b"."):
        try:
            unpickle(program, "program")
        except DataError as error:
            assert str(error).startswith("program")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(DATA))
    assert repr(read_pickle(path)) == repr(DATA)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        read_pickle(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_pickle(tmp_path)


def test_a_pickle_of_more_than_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(DATA))
    monkeypatch.setattr("cache_schema.exchange.pickles.MAX_BYTES", 100)
    with pytest.raises(DataError, match="more than 100"):
        read_pickle(path)


def test_npy_and_npz_with_objects(marker: Path, tmp_path: Path) -> None:
    evil = np.empty(1, object)
    evil[0] = Call(os.system, f"touch {marker}")
    np.save(tmp_path / "evil.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "evil.npz", evil)
    np.savez(tmp_path / "good.npz", train_corpus={"a": {"emo": 1, "val": np.float64(2)}}, plain=np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"evil\.npy"):
        read_npy(tmp_path / "evil.npy")
    with pytest.raises(DataError, match=r"posix\.system|nt\.system"):
        read_npz(tmp_path / "evil.npz")
    good = read_npz(tmp_path / "good.npz")
    assert good["train_corpus"].item() == {"a": {"emo": 1, "val": 2.0}}
    np.testing.assert_array_equal(good["plain"], np.ones(3))


def test_npy_that_claims_more_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((4, 3)))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(4, 3)", b"(4, 999999999999)".ljust(6))[: len(data)])
    with pytest.raises(DataError, match=r"a\.npy"):
        read_npy(path)
    path.write_bytes(data[:-8])
    with pytest.raises(DataError, match=r"a\.npy"):
        read_npy(path)
    for junk in (b"", b"\x93NUMPY", b"PK\x03\x04", pickle.dumps(Call(os.system, "true"))):
        path.write_bytes(junk)
        with pytest.raises(DataError, match=r"a\.npy"):
            read_npy(path)
