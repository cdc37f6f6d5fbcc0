"""Pieces of work in processes of their own: what one of them does to itself, the others do not feel."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

import pytest

from bench import gpu_apart
from bench.gpu_apart import EndedError, Item, OutOfTimeError, Row, in_turn, stream, together


def work(todo: Sequence[Item], until: float) -> Iterator[Row]:
    """Each item's row; or what the item says that it does."""
    for place, (subject, deed) in enumerate(todo):
        if time.monotonic() > until:
            return
        yield {"item": place}
        if deed == "raises":
            raise gpu_apart.BrokenDeviceError("an illegal address")
        if deed == "dies":
            os._exit(3)
        if deed == "hangs":
            time.sleep(600)
        yield {"done": subject}


def rows(todo: Sequence[Item], seconds: float = 60) -> tuple[list[str], str]:
    """What was done in a process, and how that ended."""
    found = []
    try:
        for row in stream(work, (todo, time.monotonic() + 60), seconds):
            found += [row["done"]] if "done" in row else []
    except EndedError as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def test_rows_come_until_the_process_ends_and_why_it_did_is_told() -> None:
    assert rows([("a", ""), ("b", "")]) == (["a", "b"], "")
    assert rows([("a", ""), ("b", "raises")]) == (["a"], "EndedError: BrokenDeviceError: an illegal address")
    assert rows([("a", ""), ("b", "dies")]) == (["a"], "EndedError: its process died, exit code 3")


def test_a_process_that_hangs_is_killed_when_its_time_is_over() -> None:
    for seconds in (2.0, 8.0):  # a machine with other work may need more to begin at all
        begun = time.monotonic()
        found, why = rows([("a", ""), ("b", "hangs")], seconds)
        assert why == "OutOfTimeError: its time ran out" and time.monotonic() - begun < seconds + 10
        if found:
            break
    assert found == ["a"]


def test_what_breaks_is_left_out_and_the_rest_is_done() -> None:
    todo = [("a", ""), ("b", "dies"), ("b", ""), ("c", "raises"), ("a", "")]
    broken: list[str] = []
    until = time.monotonic() + gpu_apart.ENDING + 50
    assert [row["done"] for row in in_turn(work, todo, (), until, True, broken.append)] == ["a", "a"]
    assert [line.partition(":")[0] for line in broken] == ["b, dies", "c, raises"]
    assert "Without b from here on" in broken[0]


def test_out_of_time_nothing_is_begun_and_nothing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[str] = []
    assert not list(in_turn(work, [("a", "")], (), time.monotonic(), True, broken.append))

    def killed(*_: object) -> Iterator[Row]:
        yield {"done": "a"}
        raise OutOfTimeError("its time ran out")

    monkeypatch.setattr(gpu_apart, "stream", killed)
    until = time.monotonic() + gpu_apart.ENDING + 50
    assert list(in_turn(work, [("a", ""), ("b", "")], (), until, True, broken.append)) == [{"done": "a"}]
    assert not broken


def test_side_by_side_each_has_its_rows_or_says_why_not() -> None:
    until = time.monotonic() + 60
    tasks = [(work, ([("a", "")], until)), (work, ([("b", "dies")], until))]
    (first, ended), (second, why) = together(tasks, 60, 2)
    assert {"done": "a"} in first and not ended
    assert second == [{"item": 0}] and why == "its process died, exit code 3"
