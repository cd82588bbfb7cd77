"""Products of a few rows with many small matrices, by the faster of two libraries.

torch multiplies by MKL, whose kernels for small matrices are made for Intel's processors. On an AMD EPYC with
AVX-512 those of OpenBLAS, which numpy brings along, took 0.3 to 0.7 of the time for 2 to 32 rows, measured
in float32 on one thread. There a single row, too, is multiplied faster by many small matrices than by one
large one. On other processors torch's products are used; OpenBLAS was not measured there.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = 10**6
"""OpenBLAS has kernels for products of at most this many multiplications; larger ones take all threads."""

THREADS = 2
"""With more threads torch's products, which share the matrices among the threads, take less time."""


@cache
def mkl_is_slow() -> bool:
    """Whether this is a processor for which MKL has no kernels for small matrices, but OpenBLAS has."""
    processors = Path("/proc/cpuinfo")
    if not processors.is_file() or "AuthenticAMD" not in processors.read_text():
        return False
    mkl: Any = torch.backends.mkl
    return bool(mkl.is_available()) and (
        torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    )


@cache
def _numpy_has_openblas() -> bool:
    built: Any = np.show_config(mode="dicts")
    return "openblas" in str(built["Build Dependencies"]["blas"]["name"])


def _by_numpy(rows: Tensor, matrices: Tensor) -> bool:
    count, inputs = rows.shape[-2:]
    return (
        1 < count <= LARGEST // (inputs * matrices.shape[2])
        and rows.dtype == torch.float32
        and rows.device.type == "cpu"
        and not torch.is_grad_enabled()
        and mkl_is_slow()
        and _numpy_has_openblas()
        and torch.get_num_threads() <= THREADS
    )


def products(
    rows: Float[Tensor, "n r i"], matrices: Float[Tensor, "n i o"]
) -> Float[Tensor, "n r o"]:
    """Return the product of each of ``rows`` with its matrix."""
    if not _by_numpy(rows, matrices):
        return torch.bmm(rows, matrices)
    found = rows.new_empty(len(rows), rows.shape[1], matrices.shape[2])
    np.matmul(rows.numpy(), matrices.numpy(), out=found.numpy())
    return found


def products_side_by_side(
    rows: Float[Tensor, "r _i"], matrices: Float[Tensor, "n i o"]
) -> Float[Tensor, "r n*o"]:
    """Return the products of the same ``rows`` with each matrix, after each other in a row."""
    count, _, outputs = matrices.shape
    if not _by_numpy(rows, matrices):
        return torch.bmm(rows.expand(count, -1, -1), matrices).transpose(0, 1).flatten(1)
    found = rows.new_empty(len(rows), count, outputs)
    np.matmul(rows.numpy(), matrices.numpy(), out=found.numpy().transpose(1, 0, 2))
    return found.view(len(rows), -1)
