"""How sure a model is of an answer: from log-probabilities, calibrated on answers that were judged."""

import math
from pathlib import Path

import pytest

from hdvl.inference.confidence import FILE, Calibration, Curve, confidence_of
from hdvl.inference.pipeline import Pipeline
from hdvl.inference.summary import doubts
from tests.tiny_model import tiny_vlm


def test_the_least_probable_token_counts() -> None:
    found = confidence_of([math.log(0.9), math.log(0.1)], None, boxed=False)
    assert found is not None and found.value == pytest.approx(0.1) and not found.calibrated
    assert found.low
    boxed = confidence_of([math.log(0.1)], None, boxed=True)
    assert boxed is not None and not boxed.low
    assert confidence_of([], None, boxed=False) is None


def test_a_fit_is_the_share_of_right_answers_and_never_falls() -> None:
    lowest = [0.1, 0.15, 0.2, 0.5, 0.55, 0.6, 0.9, 0.95, 0.99, 0.995]
    right = [False, False, True, False, True, True, True, True, True, True]
    found = Curve.fit(lowest, right)
    values = [found(step / 50) for step in range(51)]
    assert values == sorted(values)
    assert found(0.0) == 0.0 and found(1.0) == 1.0
    assert 0.3 < found(0.45) < 0.9


def test_between_its_points_a_curve_is_linear() -> None:
    found = Curve((0.2, 0.6), (0.1, 0.9))
    assert [found(x) for x in (0.0, 0.2, 0.4, 0.6, 1.0)] == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9])


def test_a_calibration_is_kept_in_the_folder_of_the_model(tmp_path: Path) -> None:
    assert Calibration.read(tmp_path) is None
    written = Calibration(Curve((0.2, 0.6), (0.1, 0.9)), Curve((0.1,), (0.5,)))
    written.write(tmp_path)
    assert Calibration.read(tmp_path) == written


@pytest.mark.parametrize(
    "held",
    [
        "{}",
        '{"text": {"lowest": [0.5, 0.2], "right": [0, 1]}, "boxed": {"lowest": [0], "right": [0]}}',
        '{"text": {"lowest": [0.2], "right": [2]}, "boxed": {"lowest": [0], "right": [0]}}',
    ],
)
def test_a_damaged_calibration_is_refused(held: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(held)
    with pytest.raises(ValueError, match=r"confidence\.json must hold the lists"):
        Calibration.read(tmp_path)


def test_answers_have_a_confidence_and_doubtful_ones_a_note() -> None:
    pipe = Pipeline(model=tiny_vlm())
    answer = pipe.chat("What?", max_new_tokens=3)
    assert answer.confidence is not None and not answer.confidence.calibrated
    stream = pipe.stream("What?", max_new_tokens=3)
    assert "".join(stream) == stream.answer.text
    assert stream.answer.confidence is not None
    raw = answer.confidence.value
    assert stream.answer.confidence.value == pytest.approx(raw, rel=1e-4)
    assert 0 < raw < 0.2  # random weights
    assert "not sure of this answer: its least probable token" in doubts(answer)[0]
    curve = Curve((0.0, 1.0), (0.75, 1.0))
    pipe.calibration = Calibration(curve, curve)
    sure = pipe.chat("What?", max_new_tokens=3)
    assert sure.confidence is not None and sure.confidence.calibrated
    assert sure.confidence.value == pytest.approx(0.75 + 0.25 * raw, rel=1e-4)
    assert doubts(sure) == []
    messages = pipe.conversation("What?")
    assert pipe.generate([messages], max_new_tokens=3)[0].confidence is None
    judged = pipe.generate([messages], max_new_tokens=3, logprobs=0)[0]
    assert judged.confidence is not None
    assert judged.confidence.value == pytest.approx(sure.confidence.value, rel=1e-4)
