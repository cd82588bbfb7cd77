"""Functions shared by the checks of check_eval_parity.py."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Compared = tuple[str, Any, Any]  # what, by hdvl, by the official scorer
Data = Mapping[str, Any]
Check = Callable[[Data], Iterator[Compared]]


def expected_of(case: Data, label: str, values: Mapping[str, Any]) -> Iterator[Compared]:
    """Those of ``values`` that the case records."""
    for key, got in values.items():
        if key in case:
            yield f"{label} {key}", got, case[key]
