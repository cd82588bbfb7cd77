"""Measures this machine: how fast it multiplies matrices, and the memory that the libraries take."""

import sys
import time
from dataclasses import dataclass

import torch

HALF = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}
HALF |= {"16-mixed": torch.float16, "16-true": torch.float16}
_SIZES = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices: large enough that the product, not the call, takes the time."""


@dataclass(frozen=True)
class Measured:
    """``flops`` are floating-point operations per second of matrix products on ``device``."""

    device: str
    flops: float


def measure_machine(precision: str, accelerator: str = "auto", *, seconds: float = 0.3) -> Measured:
    """Multiply square matrices for about ``seconds`` on the device that a training here would use.

    Args:
        precision: Lightning's name; half precision multiplies in that type.
        accelerator: ``trainer.accelerator``; ``cpu`` measures the processor although there is a GPU.
        seconds: how long to measure, after one product that is not counted.
    """
    kind = device_kind(accelerator)
    size, dtype = _SIZES[kind], HALF.get(precision, torch.float32)
    one = torch.ones(size, size, dtype=dtype, device=kind)
    other = torch.ones(size, size, dtype=dtype, device=kind)

    def multiply() -> None:
        torch.mm(one, other)
        if kind == "cuda":
            torch.cuda.synchronize()

    multiply()
    count, taken, begun = 0, 0.0, time.perf_counter()
    while taken < seconds:
        multiply()
        count += 1
        taken = time.perf_counter() - begun
    name = f"CPU, {torch.get_num_threads()} threads"
    if kind == "cuda":
        name = torch.cuda.get_device_name()
    return Measured(device=name, flops=count * 2 * size**3 / taken)


def device_kind(accelerator: str) -> str:
    """Return ``cuda`` or ``cpu``: the device that ``trainer.accelerator`` chooses on this machine."""
    return "cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu"


def library_bytes() -> int:
    """Return the most memory that this process has held so far.

    A process that has built its model on ``meta`` holds the code and the tables of the libraries that a
    training imports too, and nothing of the model.
    """
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
