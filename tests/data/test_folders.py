"""Folders of images that do not exist are refused before any row is read."""

from pathlib import Path

import pytest

from hdvl.data.folders import are_missing_images, check_image_folders


def test_the_key_of_a_missing_folder_is_named(tmp_path: Path) -> None:
    here, lost = {"path": "a.json", "image_folder": str(tmp_path)}, {"image_folder": "lost"}
    check_image_folders({"train": here, "validation": None})
    for data, key in (
        ({"train": lost, "validation": here}, "data.train.image_folder"),
        ({"train": here, "validation": lost}, "data.validation.image_folder"),
        ({"train": {"sources": {"a": here, "b": lost}}}, "data.train.sources.b.image_folder"),
    ):
        with pytest.raises(ValueError, match=f"^{key} must be .* there is no folder lost$"):
            check_image_folders(data)


def test_only_a_failure_of_nearly_all_rows_is_the_folder() -> None:
    missing = "[Errno 2] No such file or directory: 'a.png'"
    assert are_missing_images([missing] * 9 + ["cut short"], 10)
    assert not are_missing_images([missing] * 9, 100)
    assert not are_missing_images(["cut short"] * 10, 10)
    assert not are_missing_images([], 0)
