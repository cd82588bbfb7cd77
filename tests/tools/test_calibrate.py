"""How well confidence separates right answers from wrong ones, and how far it is from their share."""

import pytest
from calibrate import area_under_curve, calibration_error


def test_the_area_under_the_curve() -> None:
    assert area_under_curve([0.9, 0.8, 0.2, 0.1], [True, True, False, False]) == 1.0
    assert area_under_curve([0.9, 0.1, 0.9, 0.1], [True, True, False, False]) == 0.5
    with pytest.raises(ValueError, match="must hold right ones and wrong ones"):
        area_under_curve([0.5], [True])


def test_the_calibration_error_is_zero_where_shares_and_values_agree() -> None:
    right = [True, False, True, True]
    assert calibration_error([0.5, 0.5, 1.0, 1.0], right, parts=2) == pytest.approx(0.0)
    assert calibration_error([0.1] * 4, right, parts=1) == pytest.approx(0.65)
