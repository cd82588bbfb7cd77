"""Parametrised tests with a few cases in the quick part and all cases in the slow part."""

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def one_in(number: int, cases: Iterable[Any]) -> list[Any]:
    """Mark all cases slow but the first, and each ``number``-th after it.

    Args:
        number: 1 leaves all cases quick.
        cases: values for ``pytest.mark.parametrize``: a tuple holds one value for each argument. Or
            ``pytest.param``, whose own marks are kept.

    Raises:
        ValueError: ``number`` is below 1.
    """
    if number < 1:
        raise ValueError(f"number must be at least 1, got {number}")
    return [case if index % number == 0 else _slow(case) for index, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if isinstance(case, ParameterSet):
        return pytest.param(*case.values, marks=(*case.marks, pytest.mark.slow), id=case.id)
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
