"""Kernels without a GPU: run by Triton's interpreter, or compiled ahead of time, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[3]
SHARED_MEMORY = {80: 166_912, 90: 232_448, 100: 232_448}
"""Bytes that a block may use, by compute capability."""
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}


def require_triton() -> None:
    """Skips the test where there is no triton."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: it exists for Linux alone")


def in_own_process(file: str, function: str, interpret: bool) -> Any:
    """What a function of a test file returns, called in a new process, by Triton's interpreter or not."""
    require_triton()
    code = f"import json, runpy; print(json.dumps(runpy.run_path({file!r})[{function!r}]()))"
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPATH": path, "TRITON_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
        environment.pop("TRITON_INTERPRET", None)
        if interpret:
            environment["TRITON_INTERPRET"] = "1"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def poison() -> None:
    """From now on memory that nothing was written to holds nan."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def guarded(x: Tensor) -> Tensor:
    """The same numbers between two zones of nan, or of the largest integers."""
    zone = torch.nan if x.is_floating_point() else torch.iinfo(x.dtype).max
    memory = x.new_full((x.numel() + 512,), zone)
    memory[256 : 256 + x.numel()] = x.detach().flatten()
    return memory[256 : 256 + x.numel()].view(x.shape)


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected; where that is all but nothing, to one."""
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    norm = float(expected.norm())
    return float((found.double() - expected).norm()) / (norm if norm > 1e-6 else 1.0)


def without_device(monkeypatch: pytest.MonkeyPatch, package: str) -> list[Recorder]:
    """The kernels of `fuse.kernels.<package>.triton` are recorded from now on, instead of launched."""
    require_triton()
    kernels = import_module(f"fuse.kernels.{package}.triton")
    recorders = [Recorder(kernel) for name, kernel in vars(kernels).items() if name.endswith("_kernel")]
    for recorder in recorders:
        monkeypatch.setattr(kernels, recorder.kernel.__name__, recorder)
    return recorders


class Recorder:
    """Stands where a kernel stood and notes how it would have been launched."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launches: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            names = self.kernel.arg_names
            given = dict(zip(names, args, strict=False))
            given |= {name: options.pop(name) for name in names if name in options}
            self.launches.append((given, options))

        return launch

    def compiled(self, capability: int) -> list[dict[str, Any]]:
        """What each launch needs on a device: bytes of shared memory, registers and bytes of stack of a thread, and
        whether its code multiplies matrices by wgmma, or by mma."""
        return [_compiled(self.kernel, given, options, capability) for given, options in self.launches]


def _compiled(kernel: Any, given: dict[str, Any], options: dict[str, Any], capability: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = given[name]
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = TYPES[value.dtype] if isinstance(value, Tensor) else "i32"
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", said)[0]
    return {
        "kernel": kernel.__name__,
        "shared": found.metadata.shared,
        "registers": int(registers),
        "stack": int(stack),
        "wgmma": "wgmma" in found.asm["ptx"],
        "mma": "mma.sync" in found.asm["ptx"],
    }
