"""Compiled parts: the numbers of the plain ones, one compilation a bucket."""

import pytest
import torch

from hdvl.training.compiling import Compile
from tests.training.compiled import BATCHES, check_compiled


@pytest.mark.slow
@pytest.mark.parametrize("kind", BATCHES)
def test_one_compilation_a_bucket(kind: str) -> None:
    """In a process of its own: the checks of shapes, which tests run with, cannot be compiled."""
    torch.multiprocessing.spawn(check_compiled, (kind, "aot_eager"), nprocs=1)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"callbacks.compile.parts must be of encoder, llm, got bridge"
    ):
        Compile(parts=["bridge"])
    with pytest.raises(ValueError, match=r"callbacks.compile.tiles must rise from at least 1"):
        Compile(tiles=[4, 2])
