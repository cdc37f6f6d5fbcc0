"""The benches' clock."""

from __future__ import annotations

from bench.clock import in_turns


def test_works_take_turns_and_the_round_that_warms_up_is_not_counted() -> None:
    done: list[str] = []
    found = in_turns({"one": lambda: done.append("one"), "other": lambda: done.append("other")}, 3)
    assert done == ["one", "other"] * 4
    assert {name: len(seconds) for name, seconds in found.items()} == {"one": 3, "other": 3}
    assert all(second >= 0 for seconds in found.values() for second in seconds)
