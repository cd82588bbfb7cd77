"""How probable it is that an answer is right, from how sure the model was of its tokens.

The least probable token of an answer says most about it: a value is wrong if one character is. Its
probability orders answers well, but it is not the share of answers that are right. A model folder may hold a
calibration that maps one to the other. It has a curve of its own for answers with boxes, whose tokens are
less probable because locations next to the right one are nearly right.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hdvl.files import atomic_write, read_json
from hdvl.inference.sampling import SamplingParams

FILE = "confidence.json"
LOW, LOW_RAW, LOW_RAW_BOXED = 1 / 3, 0.2, 0.05
"""Below these an answer is doubtful: the calibrated probability, and if there is no calibration the
probability of a token, in an answer without boxes and in one with boxes."""


@dataclass(frozen=True)
class Confidence:
    """How sure a model was of an answer.

    Attributes:
        value: the probability that the answer is right; if not ``calibrated``, that of its least probable
            token, which may be far from it.
        calibrated: whether the folder of the model holds a calibration.
        low: whether the answer should be checked.
    """

    value: float
    calibrated: bool
    low: bool


@dataclass(frozen=True)
class Curve:
    """A non-decreasing map from the probability of the least probable token to that of a right answer.

    Attributes:
        lowest: probabilities of tokens, increasing.
        right: the share of right answers at each; linear in between, constant beyond.
    """

    lowest: tuple[float, ...]
    right: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.lowest))
        ordered = all(a <= b for a, b in pairwise(self.right))
        within = all(0 <= value <= 1 for value in (*self.lowest, *self.right))
        if (
            not self.lowest
            or len(self.lowest) != len(self.right)
            or not (rising and ordered and within)
        ):
            raise ValueError(
                "a curve must have as many numbers in right as in lowest, in 0..1, those of lowest "
                f"increasing and those of right not decreasing, got {self.lowest} and {self.right}"
            )

    @classmethod
    def fit(cls, lowest: Sequence[float], right: Sequence[bool]) -> "Curve":
        """Isotonic regression of answers that were judged, with the optional package scipy.

        Args:
            lowest: the probability of the least probable token of each answer.
            right: whether each answer is right.
        """
        from scipy.optimize import isotonic_regression

        order = sorted(range(len(lowest)), key=lowest.__getitem__)
        xs = [lowest[place] for place in order]
        found = isotonic_regression([float(right[place]) for place in order])
        starts = found.blocks.tolist()
        centres = [sum(xs[a:b]) / (b - a) for a, b in pairwise(starts)]
        shares = [float(found.x[start]) for start in starts[:-1]]
        # Answers of equal probability may form two blocks at one place, of which the last one counts.
        knots = {round(x, 6): round(share, 4) for x, share in zip(centres, shares, strict=True)}
        return cls(tuple(knots), tuple(knots.values()))

    def __call__(self, lowest: float) -> float:
        """The probability of a right answer, by that of its least probable token."""
        place = bisect_right(self.lowest, lowest)
        if place in (0, len(self.lowest)):
            return self.right[min(place, len(self.right) - 1)]
        (x0, x1), (y0, y1) = (side[place - 1 : place + 1] for side in (self.lowest, self.right))
        return y0 + (y1 - y0) * (lowest - x0) / (x1 - x0)


@dataclass(frozen=True)
class Calibration:
    """The curves of a model.

    Attributes:
        text: of answers without boxes.
        boxed: of answers with boxes.
    """

    text: Curve
    boxed: Curve

    @classmethod
    def read(cls, folder: Path) -> "Calibration | None":
        """The calibration in a model folder; ``None`` if it has none.

        Raises:
            ValueError: the file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        held = read_json(path)
        try:
            curves = [
                Curve(*(tuple(map(float, held[part][side])) for side in ("lowest", "right")))
                for part in ("text", "boxed")
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} must hold the lists lowest and right in text and in boxed: {error}"
            ) from None
        return cls(*curves)

    def write(self, folder: Path) -> None:
        """Write the calibration into a model folder."""
        with atomic_write(folder / FILE) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def confidence_of(
    logprobs: Sequence[float], calibration: Calibration | None, *, boxed: bool
) -> Confidence | None:
    """The confidence in an answer.

    Args:
        logprobs: the log-probabilities of its tokens; without any the result is ``None``.
        calibration: that of the model, if it has one.
        boxed: whether the answer has boxes.
    """
    if not logprobs:
        return None
    lowest = math.exp(min(logprobs))
    if calibration is None:
        return Confidence(lowest, False, lowest < (LOW_RAW_BOXED if boxed else LOW_RAW))
    value = (calibration.boxed if boxed else calibration.text)(lowest)
    return Confidence(value, True, value < LOW)


def with_logprobs(**options: Any) -> SamplingParams:
    """Return options of an answer whose tokens' probabilities tell how sure the model is of it."""
    return SamplingParams.of(**({"logprobs": 0} | options))
