"""MME, POPE and HallusionBench as VLMEvalKit aggregates them."""

import pytest

from hdvl.evaluation.metrics.vlmevalkit_ratings import (
    HallusionRow,
    hallusion_rating,
    hallusion_table,
    mme_task,
    pope_rating,
)


def test_mme_groups_by_image() -> None:
    rows = [("a", True), ("b", True), ("a", True), ("b", False)]
    assert mme_task(rows) == 75 + 50
    with pytest.raises(
        ValueError, match="two questions about each image, got one about b and 0 more"
    ):
        mme_task([("a", True), ("a", True), ("b", True)])


def test_pope_reports_f1_and_unknown_is_wrong() -> None:
    rows = [("Yes", "Yes"), ("Unknown", "Yes"), ("No", "No"), ("Yes", "No")]
    rating = pope_rating(rows)
    assert (rating.f1, rating.accuracy, rating.precision, rating.recall) == (50, 50, 50, 50)
    assert pope_rating([("No", "Yes")]).f1 == 0
    assert pope_rating([]).accuracy == 0


def test_hallusionbench_groups_by_the_second_category() -> None:
    rows = [
        HallusionRow("VD", "figure", "0", "1", "0", True),
        HallusionRow("VD", "figure", "0", "1", "1", False),
        HallusionRow("VS", "chart", "0", "1", "0", True),
        HallusionRow("VD", "figure", "0", "2", "0", True),
    ]
    rating = hallusion_rating(rows)
    assert rating.all_accuracy == 75
    assert rating.figure_accuracy == pytest.approx(200 / 3)
    assert rating.question_accuracy == pytest.approx(200 / 3)
    table = hallusion_table(rows)
    assert list(table) == ["Overall", "VD", "VS", "chart", "figure"]
    assert table["VS"].all_accuracy == 100
    assert table["VD"] == table["figure"]
