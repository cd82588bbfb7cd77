"""What is checked before a run writes or trains anything."""

import warnings
from typing import Any

import pytest

from hdvl.training.preflight import warn_of_untrained
from hdvl.training.tuning import MODULES


def stage(of_encoder: dict[str, Any], new_parts: list[str], **tuning: Any) -> dict[str, Any]:
    return {
        "model": {part: {} for part in MODULES} | {"encoder": of_encoder},
        "new_parts": new_parts,
        "tuning": dict.fromkeys(MODULES, "frozen") | tuning,
    }


def test_a_new_part_that_no_stage_trains_is_named() -> None:
    frozen = stage({"weights": None}, ["encoder"])
    with pytest.warns(UserWarning, match=r"encoder is new, .* tuning\.encoder=full trains it"):
        warn_of_untrained([frozen, frozen])


@pytest.mark.parametrize(
    "stages",
    [
        [stage({"weights": "a.pth"}, ["encoder"])],
        [stage({"weights": None}, [])],
        [stage({"weights": None}, ["encoder"]), stage({}, ["encoder"], encoder="full")],
        [stage({"weights": None}, ["encoder"], also={"encoder": ["norm"]})],
    ],
    ids=["trained weights", "not new", "trained later", "some parameters"],
)
def test_other_parts_are_not_named(stages: list[dict[str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untrained(stages)
