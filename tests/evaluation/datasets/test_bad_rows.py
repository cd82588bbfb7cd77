"""Rows of official files that lack a field, or hold what cannot be, are refused with file and row."""

import json
from pathlib import Path
from typing import Any

import pytest

from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.row import Row
from tests.evaluation.made_up import png, write, write_tsv
from tests.evaluation.tasks import opened, scored

POPE = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}
DOCVQA = {"questionId": 1, "question": "q", "image": "a.png", "answers": ["0.50"]}
VQA = {"question_id": 1, "image_id": 7, "question": "q"}


def pope(root: Path, **changed: Any) -> None:
    for name in ("random", "popular", "adversarial"):
        row = {key: value for key, value in {**POPE, **changed}.items() if value is not None}
        path = root / f"pope/coco_pope_{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{json.dumps(POPE | {'question_id': 9})}\n{json.dumps(row)}\n")


def rrc(root: Path, row: Any) -> None:
    write(root / "docvqa/val_v1.0.json", {"data": [row]})


@pytest.mark.parametrize("name", list(POPE))
def test_a_missing_field_is_named_with_its_row(tmp_path: Path, name: str) -> None:
    pope(tmp_path, **{name: None})
    with pytest.raises(
        ValueError, match=rf"row 2 of .*coco_pope_random.json must have the field {name}, it has"
    ):
        opened("pope", tmp_path)


@pytest.mark.parametrize("name", ["questionId", "question", "image"])
def test_a_missing_field_of_docvqa(tmp_path: Path, name: str) -> None:
    rrc(tmp_path, {key: value for key, value in DOCVQA.items() if key != name})
    with pytest.raises(ValueError, match=rf"row 1 of .*val_v1.0.json must have the field {name}"):
        opened("docvqa", tmp_path)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ("0.50", "must have a list as answers, got '0.50'"),
        ([], "question 1 must have an answer in its file"),
        (None, "question 1 must have an answer in its file"),
    ],
)
def test_answers_must_be_a_list_with_one_at_least(tmp_path: Path, answers: Any, said: str) -> None:
    rrc(tmp_path, {**DOCVQA, "answers": answers})
    with pytest.raises(ValueError, match=said):
        scored("docvqa", tmp_path, "x")


def test_answers_of_vqa_have_a_text_each(tmp_path: Path) -> None:
    write(tmp_path / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [VQA]})
    note = {"question_id": 1, "answers": [{"text": "x"}]}
    write(tmp_path / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": [note]})
    with pytest.raises(
        ValueError, match=r"row 1 of .*annotations.json must have the field answer, it has text"
    ):
        opened("vqav2", tmp_path)


def test_entries_of_a_mapping_are_named_by_their_keys(tmp_path: Path) -> None:
    write(tmp_path / "mm-vet/mm-vet.json", {"v1_0": {"imagename": "a.png", "question": "q"}})
    with pytest.raises(ValueError, match=r"entry v1_0 of .*mm-vet.json must have the field answer"):
        opened("mm_vet", tmp_path)
    write(tmp_path / "mm-vet/mm-vet.json", {"v1_0": "q"})
    with pytest.raises(ValueError, match=r"entry v1_0 of .* must be a mapping of fields, got str"):
        opened("mm_vet", tmp_path)


def test_the_place_of_a_right_choice_must_exist(tmp_path: Path) -> None:
    problem = {"choices": ["a", "b"], "answer": 2, "question": "q", "image": "image.png"}
    write(tmp_path / "scienceqa/problems.json", {"1": problem})
    write(tmp_path / "scienceqa/pid_splits.json", {"test": ["1"]})
    with pytest.raises(
        ValueError, match=r"entry 1 of .*problems.json must have one of 0, 1 as answer, got '2'"
    ):
        opened("scienceqa", tmp_path)


def test_fields_of_a_row_are_checked() -> None:
    row = Row({"number": "x", "list": "[1", "one": "Z"}, Path("a.json"), 3)
    for wrong in (
        lambda: row.whole("number"),
        lambda: row.literal("list"),
        lambda: row.choice("one", "AB"),
    ):
        with pytest.raises(ValueError, match=r"row 3 of a\.json must have .* restore the file"):
            wrong()
    with pytest.raises(ValueError, match="must have the field absent"):
        row.whole("absent")


@pytest.mark.parametrize("value", [[], 3])
def test_a_document_must_be_a_mapping(tmp_path: Path, value: Any) -> None:
    write(tmp_path / "a.json", value)
    with pytest.raises(ValueError, match=r"a\.json must hold a mapping, got"):
        DataFolder(tmp_path).document("a.json")


def test_pope_has_the_labels_yes_and_no(tmp_path: Path) -> None:
    pope(tmp_path, label="maybe")
    with pytest.raises(
        ValueError, match=r"row 2 of .* must have one of yes, no as label, got 'maybe'"
    ):
        opened("pope", tmp_path)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a/../../../../b.png"])
@pytest.mark.parametrize("look", [True, False])
def test_images_stay_below_the_folder_of_the_data(tmp_path: Path, name: str, look: bool) -> None:
    folder = DataFolder(tmp_path, look)
    with pytest.raises(
        ValueError, match=r"an image must be named by a path that stays below data_dir, got"
    ):
        folder.images(name, "coco/val2014", "")
    with pytest.raises(ValueError, match="stays below data_dir"):
        folder.images(["a.png", name], "coco")
    assert len(folder.images(["a..b.png", "../train2014/a.png"], "coco/val2014")) == 2


def mmbench(root: Path, **changed: Any) -> None:
    row = {"index": 0, "question": "q", "A": "x", "B": "y", "C": "", "answer": "A", "image": png()}
    write_tsv(root / "MMBench_DEV_EN.tsv", [{**row, **changed}])


def test_an_answer_is_the_letter_of_a_column(tmp_path: Path) -> None:
    mmbench(tmp_path, answer="Z")
    with pytest.raises(
        ValueError, match=r"row 1 of .*EN.tsv must have one of A, B, C as answer, got 'Z'"
    ):
        opened("mmbench", tmp_path)
    mmbench(tmp_path, answer="C")  # an option whose cell is empty is scored as by the official code
    assert opened("mmbench", tmp_path)[1][0].answer == "C"


def test_circles_that_are_not_complete_are_counted(tmp_path: Path) -> None:
    mmbench(tmp_path)
    found = scored("mmbench", tmp_path, "A")
    assert found.value == 100
    assert any("1 of 1 questions have fewer rotations than options" in note for note in found.notes)
    mmbench(tmp_path, B="")
    assert not scored("mmbench", tmp_path, "A").notes


@pytest.mark.parametrize("name", ["MME", "POPE"])
def test_tables_of_yes_or_no_questions(tmp_path: Path, name: str) -> None:
    row = {"index": 0, "question": "q", "answer": "perhaps", "category": "count", "image": png()}
    write_tsv(tmp_path / f"{name}.tsv", [row])
    with pytest.raises(
        ValueError, match=r"must have one of Yes, No, yes, no as answer, got 'perhaps'"
    ):
        opened(name.lower(), tmp_path)
