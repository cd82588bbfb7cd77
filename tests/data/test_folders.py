"""Rows whose images are looked for in a wrong folder are recognised."""

from hdvl.data.folders import are_missing_images


def test_only_a_failure_of_nearly_all_rows_is_the_folder() -> None:
    missing = "[Errno 2] No such file or directory: 'a.png'"
    assert are_missing_images([missing] * 9 + ["cut short"], 10)
    assert not are_missing_images([missing] * 9, 100)
    assert not are_missing_images(["cut short"] * 10, 10)
    assert not are_missing_images([], 0)
