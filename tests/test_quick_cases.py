"""The cases of a parametrised test that ``one_in`` selects for the quick part."""

from typing import Any

import pytest

from tests.quick_cases import one_in


def quick(cases: list[Any]) -> list[bool]:
    return [
        not (hasattr(case, "marks") and "slow" in {m.name for m in case.marks}) for case in cases
    ]


def test_the_first_of_each_run_of_cases_is_quick() -> None:
    assert quick(one_in(3, "abcde")) == [True, False, False, True, False]
    assert quick(one_in(1, [(1, 2), (3, 4)])) == [True, True]
    assert one_in(2, [(1, 2), (3, 4)])[1].values == (3, 4)
    assert quick(one_in(2, iter({"a": 0, "b": 1}))) == [True, False]


def test_marks_and_names_of_a_case_are_kept() -> None:
    xfail = pytest.mark.xfail(reason="known")
    _, case = one_in(2, [0, pytest.param(1, marks=xfail, id="one")])
    assert case.id == "one" and {mark.name for mark in case.marks} == {"xfail", "slow"}


def test_a_wrong_number() -> None:
    with pytest.raises(ValueError, match="number must be at least 1, got 0"):
        one_in(0, [1])


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("number", range(4))
def test_the_first_cases_stay_quick(request: pytest.FixtureRequest, number: int) -> None:
    assert bool(request.node.get_closest_marker("slow")) == (number >= 2)
