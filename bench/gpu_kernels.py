"""The operators of `fuse/kernels/` on a device: first whether they are right, then how fast they are.

Every folder of `fuse/kernels/` is an operator. Its `cases.py` says on which inputs it is tested (`hostile`,
`realistic`), what does the same (`rivals`), and, if the operator is not called like its folder, which it is
(`OPERATOR`).
An operator returns tensors, or moves its arguments in place and returns nothing.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.clock import Clock, Floor, Time, Work
from cache_schema.errors import first_line

KERNELS = Path(__file__).resolve().parents[1] / "fuse" / "kernels"
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Greatest error of an output relative to the greatest output of the float64 reference, and so of gradients: one that
cancels out next to large ones has no digits to lose."""
UNROLLED = 16
"""Steps of a loop over time up to which torch.compile is asked: it unrolls them."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Operator:
    """An operator and its cases."""

    name: str
    run: Callable[..., Any]
    cases: ModuleType


def operators() -> Iterator[Operator]:
    """Every folder of `fuse/kernels/` that has cases."""
    for folder in sorted(KERNELS.iterdir()):
        if (folder / "cases.py").is_file():
            package = importlib.import_module(f"fuse.kernels.{folder.name}")
            cases = importlib.import_module(f"fuse.kernels.{folder.name}.cases")
            yield Operator(folder.name, getattr(cases, "OPERATOR", None) or getattr(package, folder.name), cases)


# ---------------------------------------------------------------------------------------------------- correctness


def check(operator: Operator, device: torch.device, seeds: Sequence[int], small: bool) -> Iterator[dict[str, Any]]:
    """Each case in each type: the greatest error against float64, and whether a second run gives the same bits."""
    for kind, dtype in TYPES.items():
        for count in seeds:
            listed = operator.cases.hostile if small else operator.cases.cases
            for name, inputs in listed(device, dtype, count):
                row = {"operator": operator.name, "case": name, "type": kind, "seeds": count}
                try:
                    first, second = (results(operator.run, copied(inputs, None)) for _ in range(2))
                    exact = results(operator.run, copied(inputs, torch.float64))
                    wrong = max(distance(x, y) for x, y in zip(first, exact, strict=True))
                except Exception as error:  # noqa: BLE001 - also what triton's compiler raises is a result
                    why = f"{type(error).__name__}: {first_line(error)}"
                    yield row | {"error": None, "repeatable": False, "right": False, "why": why}
                    continue
                same = all(
                    equal(x, y)
                    for one, other in zip(first, second, strict=True)
                    for x, y in zip(one, other, strict=True)
                )
                yield row | {"error": wrong, "repeatable": same, "right": same and wrong <= LIMITS[dtype], "why": ""}


def copied(inputs: Sequence[Any], dtype: torch.dtype | None) -> list[Any]:
    """Inputs of their own, floats of another type if one is given."""

    def own(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return [own(part) for part in x]
        if not isinstance(x, Tensor):
            return x
        y = x.detach().clone() if dtype is None or not x.is_floating_point() else x.detach().to(dtype, copy=True)
        return y.requires_grad_(x.requires_grad)

    return [own(x) for x in inputs]


def results(run: Callable[..., Any], inputs: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """What an operator returns, or the arguments that it has moved; and the gradients of its inputs."""
    found = run(*inputs)
    if found is None:
        return [x for part in inputs for x in (part if isinstance(part, list) else [part]) if isinstance(x, Tensor)], []
    outputs = [x for x in (found if isinstance(found, tuple) else (found,)) if isinstance(x, Tensor)]
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    grads = torch.autograd.grad(outputs, wanted, [upstream(x) for x in outputs], allow_unused=True)
    return [x.detach() for x in outputs], [g for g in grads if g is not None]


def upstream(x: Tensor) -> Tensor:
    """The same gradient of an output every time, whatever its type and device: rounded as bfloat16 would."""
    random = torch.Generator().manual_seed(x.numel())
    return torch.randn(x.shape, generator=random).bfloat16().to(x.device, x.dtype)


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    """The greatest difference over the greatest number of `exact` (1 where that is less than 1e-3)."""
    pairs = [(x.double(), y.double()) for x, y in zip(found, exact, strict=True) if x.numel()]
    most = max((float(y.abs().max()) for _, y in pairs), default=0.0)
    wrong = [float((x - y).abs().max()) for x, y in pairs]
    if any(w != w for w in wrong):
        return float("inf")
    return max(wrong, default=0.0) / (most if most > 1e-3 else 1.0)


def equal(x: Tensor, y: Tensor) -> bool:
    """To the bit, NaN included."""
    return torch.equal(x.nan_to_num(), y.nan_to_num()) and torch.equal(x.isnan(), y.isnan())


# ---------------------------------------------------------------------------------------------------- speed


def measure(
    operator: Operator, clock: Clock, floor: Floor, seeds: Sequence[int], small: bool, until: float
) -> Iterator[dict[str, Any]]:
    """Each realistic case, forward and forward with backward: the operator, and everything that does the same.

    Args:
        operator: which.
        clock: on which device.
        floor: what the machine can do.
        seeds: how many models at once.
        small: the first hostile case instead, quickly.
        until: when (`time.perf_counter`) nothing more is begun.
    """
    listed = operator.cases.hostile if small else operator.cases.realistic
    for count in seeds:
        for kind in ("fp32",) if small else TYPES:
            for name, inputs in islice(listed(clock.device, TYPES[kind], count), 1 if small else None):
                if time.perf_counter() > until:
                    return
                moved = bytes_of(operator, inputs)
                for backward in (False, True) if differentiable(inputs) else (False,):
                    row = {"operator": operator.name, "case": name, "type": kind, "seeds": count}
                    row["pass"] = "forward + backward" if backward else "forward"
                    limit = (3 if backward else 1) * moved / floor.bytes_per_second
                    yield row | {"floor": limit, "times": ways(operator, inputs, clock, backward, small, until)}


def ways(
    operator: Operator, inputs: Sequence[Any], clock: Clock, backward: bool, small: bool, until: float
) -> dict[str, Time | str]:
    """Name of a way -> its time, or why it has none."""
    rivals = dict(operator.cases.rivals())
    forms: dict[str, Callable[..., Any]] = {"mer": operator.run, **rivals}
    found: dict[str, Time | str] = {}
    for name, run in forms.items():
        found[name] = attempt(lambda run=run: work_of(run, inputs, backward), clock, captured=False)  # type: ignore[misc]
        if clock.device.type == "cuda":
            found[f"{name}, graph"] = attempt(lambda run=run: work_of(run, inputs, backward), clock, captured=True)  # type: ignore[misc]
        if name == "mer" or small or not compiles(operator, inputs) or time.perf_counter() > until:
            continue
        torch._dynamo.reset()
        compiled: Any = torch.compile(run, dynamic=False)
        for captured in (False, True) if clock.device.type == "cuda" else (False,):
            title = f"{name}, compiled" + (", graph" if captured else "")
            found[title] = attempt(lambda run=compiled: work_of(run, inputs, backward), clock, captured)  # type: ignore[misc]
    return found


def attempt(make: Callable[[], Work], clock: Clock, captured: bool) -> Time | str:
    """The time of a piece of work; where it cannot be done or captured, why."""
    try:
        work = make()
        return clock.time(clock.graph(work) if captured else work)
    except Exception as error:  # noqa: BLE001 - a rival that cannot run is a result
        return f"{type(error).__name__}: {first_line(error)}"


def work_of(run: Callable[..., Any], inputs: Sequence[Any], backward: bool) -> Work:
    """One pass, with gradients of everything that asks for one."""
    given = copied(inputs, None)
    wanted = [x for x in given if isinstance(x, Tensor) and x.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            run(*given)

    def both() -> None:
        found = run(*given)
        outputs = [x for x in (found if isinstance(found, tuple) else (found,)) if isinstance(x, Tensor)]
        torch.autograd.grad(outputs, wanted, [torch.ones_like(x) for x in outputs], allow_unused=True)

    return both if backward else forward


def differentiable(inputs: Sequence[Any]) -> bool:
    """Whether any input has a gradient."""
    return any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


def compiles(operator: Operator, inputs: Sequence[Any]) -> bool:
    """Whether torch.compile is asked: not where it would unroll a long loop."""
    return operator.name != "recurrent" or inputs[0].shape[1] <= UNROLLED


def bytes_of(operator: Operator, inputs: Sequence[Any]) -> int:
    """What a forward pass must read and write at least."""
    if hasattr(operator.cases, "moved_bytes"):
        return int(operator.cases.moved_bytes(inputs))
    given = copied(inputs, None)
    with torch.no_grad():
        found = operator.run(*given)
    outputs = found if isinstance(found, tuple) else (found,)
    return sum(x.nbytes for x in [*given, *outputs] if isinstance(x, Tensor))
