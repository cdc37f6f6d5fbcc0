"""The operators of `fuse/kernels/` on a device: first whether they are right, then how fast they are.

Every folder of `fuse/kernels/` is an operator. Its `cases.py` says on which inputs it is tested (`hostile`,
`realistic`), what does the same (`rivals`), which cases are measured first, against which rivals under torch.compile
(`TARGETS`, `COMPILED`), and, if the operator is not called like its folder, which it is (`OPERATOR`).
An operator returns tensors, or moves its arguments in place and returns nothing.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.clock import Clock, Floor, Time, Work
from bench.gpu_apart import BrokenDeviceError, Item, Row
from cache_schema.errors import first_line
from fuse.kernels import dispatch

KERNELS = Path(__file__).resolve().parents[1] / "fuse" / "kernels"
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Greatest error of an output relative to the greatest output of the float64 reference, and so of gradients: one that
cancels out next to large ones has no digits to lose."""
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


def named(name: str) -> Operator:
    """The operator of this folder."""
    return next(operator for operator in operators() if operator.name == name)


def check(name: str, kind: str, device: torch.device, seeds: Sequence[int], small: bool) -> Iterator[Row]:
    """The greatest error against float64 in each case, and whether a second run gives the same bits.

    Args:
        name: of the operator.
        kind: of `TYPES`.
        device: where it runs.
        seeds: how many models at once, in hostile cases; realistic ones are of the first number.
        small: no realistic cases.
    """
    operator, dtype = named(name), TYPES[kind]
    listed = [(operator.cases.hostile, count) for count in seeds]
    for cases, count in listed if small else [*listed, (operator.cases.realistic, seeds[0])]:
        for case, inputs in cases(device, dtype, count):
            row = {"operator": name, "case": case, "type": kind, "seeds": count}
            try:
                same, wrong = compared(operator.run, inputs)
                require_kernel(name)
                row |= {"error": wrong, "repeatable": same, "right": same and wrong <= LIMITS[dtype], "why": ""}
            except Exception as error:  # noqa: BLE001 - also what triton's compiler raises is a result
                require_alive(device)
                row |= {"error": None, "repeatable": False, "right": False, "why": said(error)}
            yield row
            del inputs  # may be gigabytes, and the next ones are made before they are forgotten


def compared(run: Callable[..., Any], inputs: Sequence[Any]) -> tuple[bool, float]:
    """Whether a second run gives the same bits, and the error against float64."""
    first = results(run, copied(inputs, None))
    same = identical(first, results(run, copied(inputs, None)))
    exact = results(run, copied(inputs, torch.float64))
    return same, max(distance(x, y) for x, y in zip(first, exact, strict=True))


class NoKernelError(Exception):
    """The reference ran, since the kernel could not."""


def require_kernel(name: str) -> None:
    """An operator's kernel could run since this was asked last, or was not asked to.

    Raises:
        NoKernelError: it could not; says why.
    """
    why = dispatch.failed.pop(name, None)
    if why:
        raise NoKernelError(why)


def require_alive(device: torch.device) -> None:
    """The device still works, after an error.

    Raises:
        BrokenDeviceError: it does nothing more for this process.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise BrokenDeviceError(first_line(error)) from error


def said(error: Exception) -> str:
    """An error in a row of a table."""
    return f"{type(error).__name__}: {first_line(error)}"


Results = tuple[list[Tensor], list[Tensor]]
"""Of an operator: what it returns, and gradients."""


def identical(one: Results, other: Results) -> bool:
    """Whether all of it is equal to the bit."""
    return all(equal(x, y) for a, b in zip(one, other, strict=True) for x, y in zip(a, b, strict=True))


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


def results(run: Callable[..., Any], inputs: list[Any]) -> Results:
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
    most = wrong = 0.0
    for x, y in zip(found, exact, strict=True):
        if x.numel():
            most, far = max(most, float(y.abs().max())), float((x - y).abs().max())
            wrong = far if far > wrong or far != far else wrong
    if wrong != wrong:
        return float("inf")
    return wrong / (most if most > 1e-3 else 1.0)


def equal(x: Tensor, y: Tensor) -> bool:
    """To the bit, NaN included."""
    return torch.equal(x.nan_to_num(), y.nan_to_num()) and torch.equal(x.isnan(), y.isnan())


# ---------------------------------------------------------------------------------------------------- speed


def items(seeds: Sequence[int], small: bool) -> list[Item]:
    """What `measure` takes in turn: operator, type and number of seeds, all operators of one number before the next."""
    kinds = ("fp32",) if small else tuple(TYPES)
    return [(operator.name, kind, count) for count in seeds for kind in kinds for operator in operators()]


def measure(
    todo: Sequence[Item], clock: Clock, floor: Floor | None, targets: bool, small: bool, until: float
) -> Iterator[Row]:
    """Each realistic case, forward with backward and forward alone: the operator, and everything that does the same.

    Args:
        todo: operators, types and numbers of seeds.
        clock: on which device.
        floor: what the machine can do; None: it is measured, and the first row.
        targets: the cases that the targets are about, torch.compile among the rivals; else the others, without.
        small: the first hostile case instead, quickly.
        until: when (`time.monotonic`) nothing more is begun.
    """
    if floor is None:
        floor = Floor.measure(clock, small)
        yield {"machine": floor}
    for place, (name, kind, count) in enumerate(todo):
        if time.monotonic() > until:
            return
        yield {"item": place}
        operator = named(name)
        asked = operator.cases.COMPILED if targets and not small else ()
        row = {"operator": name, "case": "", "type": kind, "seeds": count, "pass": "", "floor": None}
        try:
            listed = operator.cases.hostile if small else operator.cases.realistic
            for case, inputs in listed(clock.device, TYPES[kind], count):
                row["case"] = case
                if small or (case in operator.cases.TARGETS) is targets:
                    for found in passes(operator, inputs, clock, floor, asked, until):
                        yield row | found
                del inputs  # may be gigabytes, and the next ones are made before they are forgotten
                if small:
                    break
        except Exception as error:  # noqa: BLE001 - such as memory that runs out; the others are measured all the same
            require_alive(clock.device)
            yield row | {"times": {"mer": said(error)}}


def passes(
    operator: Operator, inputs: Sequence[Any], clock: Clock, floor: Floor, asked: Sequence[str], until: float
) -> Iterator[Row]:
    """Forward with backward, where there are gradients, and forward alone: the floor and the ways."""
    moved = bytes_of(operator, inputs)
    for backward in (True, False) if differentiable(inputs) else (False,):
        if time.monotonic() > until:
            return
        limit = (3 if backward else 1) * moved / floor.bytes_per_second
        row = {"pass": "forward + backward" if backward else "forward", "floor": limit}
        yield row | {"times": ways(operator, inputs, clock, backward, asked, until)}


def ways(
    operator: Operator, inputs: Sequence[Any], clock: Clock, backward: bool, asked: Sequence[str], until: float
) -> dict[str, Time | str]:
    """Name of a way -> its time, or why it has none; of the rivals `asked` for under torch.compile, too."""
    forms: dict[str, Callable[..., Any]] = {"mer": operator.run, **operator.cases.rivals()}
    on_gpu = clock.device.type == "cuda"
    found: dict[str, Time | str] = {}
    for name, run in forms.items():
        found[name] = attempt(operator, run, inputs, backward, clock, captured=False)
        if on_gpu:
            found[f"{name}, graph"] = attempt(operator, run, inputs, backward, clock, captured=True)
    for name in asked:
        if time.monotonic() > until:
            break
        torch._dynamo.reset()
        compiled: Any = torch.compile(forms[name], dynamic=False)
        found[f"{name}, compiled"] = attempt(operator, compiled, inputs, backward, clock, captured=False)
        if on_gpu:
            found[f"{name}, compiled, graph"] = attempt(operator, compiled, inputs, backward, clock, captured=True)
    return found


def attempt(
    operator: Operator, run: Callable[..., Any], inputs: Sequence[Any], backward: bool, clock: Clock, captured: bool
) -> Time | str:
    """The time of a pass; where it cannot be done or captured, why."""
    try:
        work = work_of(run, inputs, backward)
        found = clock.time(clock.graph(work) if captured else work)
        require_kernel(operator.name)
    except Exception as error:  # noqa: BLE001 - a rival that cannot run is a result
        require_alive(clock.device)
        return said(error)
    return found


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


def bytes_of(operator: Operator, inputs: Sequence[Any]) -> int:
    """What a forward pass must read and write at least."""
    if hasattr(operator.cases, "moved_bytes"):
        return int(operator.cases.moved_bytes(inputs))
    given = copied(inputs, None)
    with torch.no_grad():
        found = operator.run(*given)
    outputs = found if isinstance(found, tuple) else (found,)
    return sum(x.nbytes for x in [*given, *outputs] if isinstance(x, Tensor))
