"""Times of steps in the benchmarks of ``tools``."""

import pytest
from races import Steps


def test_later_tokens_are_those_of_steps_in_which_all_rows_get_one() -> None:
    # The first row begins before the prompt of the second is read, and ends before it.
    steps = Steps(10.0, [[11.0, 13.0, 14.0, 15.0], [12.0, 13.0, 14.0, 15.0, 15.5]])
    assert steps.first == 2.0
    assert steps.later == pytest.approx(1.0)
