"""Files, folders and shares that commands are given are checked before heavy libraries are imported."""

from pathlib import Path
from typing import Any

import pytest

from hdvl.inputs import check_data, check_inputs


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.json").write_text("[]")
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)


def test_the_key_of_a_missing_folder_is_named() -> None:
    here, lost = {"path": "mine.json", "image_folder": "pictures"}, {"image_folder": "lost"}
    check_data({"train": here, "validation": None})
    for data, key in (
        ({"train": lost, "validation": here}, "data.train.image_folder"),
        ({"train": here, "validation": lost}, "data.validation.image_folder"),
        ({"train": {"sources": {"a": here, "b": lost}}}, "data.train.sources.b.image_folder"),
    ):
        with pytest.raises(ValueError, match=f"^{key} must be .* there is no folder lost; check"):
            check_data(data)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (
            {"data": {"train": {"path": "mien.json"}}},
            r"^data.train.path must exist, there is no mien.json, did you mean mine.json\?$",
        ),
        (
            {"data": {"train": {"image_folder": "picture"}}},
            r"there is no folder picture, did you mean pictures\?$",
        ),
        (
            {"data": {"train": {"image_folder": "mine.json"}}},
            r"there is no folder mine.json; check the path$",
        ),
        ({"data": {"holdout": "10%"}}, r"^data.holdout must be a number above 0 .* got 10%$"),
        ({"data": {"holdout": 1.5}}, r"^data.holdout must be a number above 0 .* got 1.5$"),
        ({"inputs": "picturs"}, r"^inputs must be a folder.* no picturs, did you mean pictures\?$"),
        ({"image": "pictures"}, r"is a folder; .* about all of them with inputs=pictures$"),
        ({"image": "sheet.json"}, r"there is no sheet.json; check the path$"),  # not like mine.json
        ({"resume": "picture"}, r"^resume must be a run folder, there is no picture, did you mean"),
        ({"image": ""}, r"^image must be a file, got nothing; give a path"),
        (
            {"init_from": "picture"},
            r"^init_from must be a folder, there is no picture, did you mean",
        ),
    ],
    ids=str,
)
def test_a_mistake_names_its_key_and_what_is_alike(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_inputs(plain)


def test_what_is_not_known_yet_is_not_checked() -> None:
    unknown = {"path": "???", "image_folder": "${data.train.image_folder}"}
    check_data({"train": {"path": "shards/*.json"}, "validation": unknown, "holdout": None})
    check_inputs({"inputs": "pictures/*.png", "init_from": "${oc.env:MODEL}", "data": None})
