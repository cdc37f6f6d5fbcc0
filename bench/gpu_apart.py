"""Pieces of work in processes of their own, whose results come one by one.

An illegal address ends a process's use of the GPU, and a compiler may take minutes. So what is measured runs apart from
what writes it down: a process that breaks, or whose time is over, takes nothing with it but the piece that it was at.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from cache_schema.errors import first_line

Row = dict[str, Any]
Item = tuple[Any, ...]
"""A piece of work; the first part is what it is about, an operator or an architecture."""
Work = Callable[..., Iterator[Row]]
"""Called with a list of items and what else it needs; yields {"item": its place in the list} when it begins one."""
ENDING = 10.0
"""Seconds before the end from which on nothing more is begun."""


class EndedError(Exception):
    """A process did not come to its end; says why."""


class OutOfTimeError(EndedError):
    """It was killed, since its time was over."""


class BrokenDeviceError(Exception):
    """The device does nothing more for this process."""


def stream(work: Work, arguments: Sequence[Any], seconds: float) -> Iterator[Row]:
    """What `work(*arguments)` yields in a process of its own, as it comes.

    Args:
        work: a function of a module.
        arguments: of types that can be pickled.
        seconds: how long it may take, after which it is killed.

    Raises:
        OutOfTimeError: it was killed.
        EndedError: it raised, or died.
    """
    end = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, work, tuple(arguments)))
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            try:
                kind, found = receiver.recv()
            except EOFError:
                process.join(ENDING)
                raise EndedError(f"its process died, exit code {process.exitcode}") from None
            if kind == "end":
                return
            if kind == "error":
                raise EndedError(found)
            yield found
        raise OutOfTimeError("its time ran out")
    finally:
        process.kill()
        process.join(ENDING)  # one that a driver holds does not end even so
        receiver.close()


def _run(sender: Connection, work: Work, arguments: Sequence[Any]) -> None:
    try:
        for row in work(*arguments):
            sender.send(("row", row))
        sender.send(("end", None))
    except Exception as error:  # noqa: BLE001 - told to the process that waits
        sender.send(("error", f"{type(error).__name__}: {first_line(error)}"))
    finally:
        sender.close()


def together(tasks: Sequence[tuple[Work, Sequence[Any]]], seconds: float, most: int) -> list[tuple[list[Row], str]]:
    """The rows of several pieces of work, each in a process, `most` at a time; and why one ended early, or nothing."""
    end = time.monotonic() + seconds

    def one(task: tuple[Work, Sequence[Any]]) -> tuple[list[Row], str]:
        rows: list[Row] = []
        try:
            rows.extend(stream(*task, end - time.monotonic()))
        except EndedError as error:
            return rows, str(error)
        return rows, ""

    with ThreadPoolExecutor(max(1, most)) as pool:
        return list(pool.map(one, tasks))


def in_turn(
    work: Work, items: Sequence[Item], arguments: Sequence[Any], until: float, apart: bool, broke: Callable[[str], None]
) -> Iterator[Row]:
    """What `work(items, *arguments, until)` yields; where a process breaks, another goes on without that subject.

    Args:
        work: yields {"item": place} before each item, and begins none after the time that it is given.
        items: what is to be done, the most wanted first.
        arguments: what else it needs.
        until: when (`time.monotonic`) everything ends.
        apart: in a process of its own.
        broke: is told what broke, and why.
    """
    if not apart:
        yield from (row for row in work(items, *arguments, until) if "item" not in row)
        return
    left = list(items)
    while left and time.monotonic() < until - ENDING:
        at = 0
        try:
            for row in stream(work, (left, *arguments, until - ENDING), until - time.monotonic()):
                if "item" in row:
                    at = row["item"]
                else:
                    yield row
            return
        except OutOfTimeError:
            return
        except EndedError as error:
            subject = left[at][0]
            broke(f"{', '.join(map(str, left[at]))}: {error}. Without {subject} from here on.")
            left = [item for item in left[at + 1 :] if item[0] != subject]
