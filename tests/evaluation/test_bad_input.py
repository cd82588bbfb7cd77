"""Bad input is named and counted, and scored only where the official code would score it."""

import base64
from pathlib import Path
from typing import Any

import pytest

from hdvl import score
from hdvl.config import build, compose, to_plain
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.samples import Sample, image_bytes
from hdvl.evaluation.task import Task
from tests.evaluation.made_up import docvqa, png, write, write_tsv
from tests.evaluation.tasks import scored_file as run


def task_of(name: str, *overrides: str) -> Task:
    plain = to_plain(compose(f"task=[{name}]", *overrides, config_name="evaluate"))
    task: Task = build(plain["task"][name])
    return task


CELLS = {"A": "None", "B": "NA", "C": "1.0", "D": ""}


def mmstar(root: Path, rows: int = 4) -> list[dict[str, Any]]:
    """A table whose options are cells that other programs take for missing values."""
    found = [
        {
            "index": n,
            "image": png(n, (500, 300)) if n == 0 else png(n),
            "question": "q",
            **CELLS,
            "answer": "ABCA"[n],
            "category": "c",
            "l2_category": "d",
        }
        for n in range(rows)
    ]
    write_tsv(root / "MMStar.tsv", found)
    return found


def test_cells_that_look_like_missing_values_stay_options(tmp_path: Path) -> None:
    rows = mmstar(tmp_path)
    assert len(base64.b64encode(rows[0]["image"])) > 131_072  # the limit of the csv module
    protocol = "task.mmstar.protocol=vlmevalkit"
    samples = task_of("mmstar", protocol).samples(DataFolder(tmp_path))
    assert samples[0].options == {"A": "None", "B": "NA", "C": "1.0"}
    assert [image_bytes(one.images[0]) for one in samples] == [row["image"] for row in rows]
    # An empty cell is "nan" to VLMEvalKit, in which it finds the option "NA".
    texts = ["", "NA", "1.0", "None"]
    given = [{"index": n, "prediction": text} for n, text in enumerate(texts)]
    report = run(tmp_path, "mmstar", write_tsv(tmp_path / "p.tsv", given), protocol)
    assert report["correct"] == {"0": 0, "1": 1, "2": 1, "3": 1}
    assert report["problems"]["not_text"] == ["0"] and report["unparsed"] == []


def test_an_empty_cell_of_a_workbook_is_no_answer(tmp_path: Path) -> None:
    from openpyxl import Workbook

    mmstar(tmp_path)
    book = Workbook()
    for row in (["index", "prediction"], [0, None], [1.0, "B"], [2, "C"], [3, "A"], [3, "B"]):
        book.active.append(row)
    book.save(tmp_path / "p.xlsx")
    report = run(tmp_path, "mmstar", tmp_path / "p.xlsx", "task.mmstar.protocol=vlmevalkit")
    assert report["problem_counts"] == {
        "missing": 0,
        "duplicate": 1,
        "unknown": 0,
        "not_text": 1,
        "empty": 0,
    }
    assert report["correct"] == {"0": 0, "1": 1, "2": 1, "3": 0}  # the last answer counts


def test_incomplete_files_are_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docvqa(tmp_path, questions=4)
    rows = [(100, "word0"), (101, "word1"), (101, "no"), (999, "x"), (102, None)]
    file = write(tmp_path / "p.json", [{"questionId": n, "answer": text} for n, text in rows])
    wanted = (
        r"missing 1 \('103'\); duplicate 1 \('101'\); unknown 1 \('999'\); "
        r"not_text 1 \('102'\)"
    )
    with pytest.raises(ValueError, match=wanted):
        run(tmp_path, "docvqa", file)
    report = run(tmp_path, "docvqa", file, "partial=true")
    assert report["correct"] == {"100": 1, "101": 0} and report["score"] == 50
    said = capsys.readouterr().out
    for line in ("2 questions", "missing: 1", "duplicate: 1", "unknown: 1 ('999')", "not_text: 1"):
        assert line in said
    # MMStar's scorer leaves out what is missing, and ignores what it does not know.
    mmstar(tmp_path)
    given = [{"index": n, "prediction": "A"} for n in (0, 77)]
    report = run(tmp_path, "mmstar", write_tsv(tmp_path / "p.tsv", given))
    assert report["score"] == 100 and report["problem_counts"]["missing"] == 3
    assert report["problems"]["unknown"] == ["77"]


def test_questions_with_one_id_are_refused(tmp_path: Path) -> None:
    mmstar(tmp_path)
    table = tmp_path / "MMStar.tsv"
    table.write_text(table.read_text() + table.read_text().splitlines(True)[-1])
    given = write_tsv(tmp_path / "p.tsv", [{"index": 0, "prediction": "A"}])
    with pytest.raises(ValueError, match=r"ids of mmstar must be unique, got 1 twice, such as '3'"):
        run(tmp_path, "mmstar", given)
    docvqa(tmp_path, questions=2)
    path = tmp_path / "docvqa/val_v1.0_withQT.json"
    path.write_text(path.read_text().replace("101", "100"))
    file = write(tmp_path / "p.json", [{"questionId": 100, "answer": "word0"}])
    with pytest.raises(ValueError, match="ids of the questions must be unique"):
        run(tmp_path, "docvqa", file, "partial=true")


def test_missing_images_do_not_prevent_scoring(tmp_path: Path) -> None:
    docvqa(tmp_path, questions=1)
    (tmp_path / "docvqa/documents/page0.png").unlink()
    file = write(tmp_path / "p.json", [{"questionId": 100, "answer": "word0"}])
    assert run(tmp_path, "docvqa", file)["score"] == 100
    (sample,) = task_of("docvqa").samples(DataFolder(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"page0\.png"):
        image_bytes(sample.images[0])


SIZE = {"width": 1000, "height": 500}
BOXES = {
    "inside": ([100, 100, 300, 200], "(100,200),(300,400)", 1),
    "swapped": ([100, 100, 300, 200], "(300,400),(100,200)", 0),
    "outside": ([900, 400, 1100, 600], "(899,799),(1099,1199)", 1),
    "none": ([0, 0, 10, 10], "I see no such thing.", 0),
}


@pytest.mark.parametrize("form", ["qwen_vl", "internvl", "pixels", "grit"])
def test_swapped_and_outside_boxes_are_counted(form: str) -> None:
    from hdvl.evaluation.scorers.boxes import box_scores

    answers = dict[str, str]()
    for name, (box, text, _) in BOXES.items():
        x1, y1, x2, y2 = box
        if name == "swapped":
            x1, y1, x2, y2 = x2, y2, x1, y1
        if form == "internvl":
            text = f"[[{x1}, {y1 * 2}, {x2}, {y2 * 2}]]"
        elif form != "qwen_vl":
            text = f"[[{x1}, {y1}, {x2}, {y2}]]"
        answers[name] = text if name != "none" else ("[]" if form in ("pixels", "grit") else "no")
    samples = [
        Sample(name, "the dog", extra={"box": box, **SIZE}) for name, (box, _, _) in BOXES.items()
    ]
    found = box_scores(samples, answers, form=form)
    assert found.correct == {name: hit for name, (_, _, hit) in BOXES.items()}
    assert found.unparsed == ["none"]
    assert found.notes == [
        "1 ('swapped') predicted boxes: corners are swapped; scored as they are",
        "1 ('outside') predicted boxes: reach out of the image; scored as they are",
        "1 ('outside') true boxes: reach out of the image; scored as they are",
    ]


def test_textvqa_of_llava_is_joined_by_image_and_question(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "image_id": "i", "question": f"What {n}?", "answers": [str(n)] * 10}
        for n in range(4)
    ]
    write(tmp_path / "textvqa/TextVQA_0.5.1_val.json", {"data": rows})
    end = "Answer the question using a single word or phrase."
    prompts = [
        f"WHAT 0?\n{end}",
        f"What 1?\nReference OCR token: a, b\n{end}",
        f"Reference OCR token: a\nWhat 2?\n{end}",
        "OCR tokens: a. Question: What 3? Short answer:",
    ]
    given = [{"question_id": "i", "prompt": text, "text": str(n)} for n, text in enumerate(prompts)]
    report = run(tmp_path, "textvqa", write(tmp_path / "p.jsonl", given))
    assert report["score"] == 100 and report["questions"] == 4
    given[0]["prompt"] = "Who?"
    with pytest.raises(ValueError, match=r"unknown 1 \('i who\?'\)"):
        run(tmp_path, "textvqa", write(tmp_path / "p.jsonl", given))


def pope(root: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": f"{n}.jpg", "text": f"{split}?", "label": "yes"}
            for n in range(2)
        ]
        write(root / f"pope/coco_pope_{split}.jsonl", rows)


def test_pope_takes_bare_ids(tmp_path: Path) -> None:
    pope(tmp_path)
    kinds = ("random", "popular", "adversarial")
    given = [
        {"question_id": n, "category": kind, "text": "yes" if n else "no"}
        for kind in kinds
        for n in range(2)
    ]
    report = run(tmp_path, "pope", write(tmp_path / "p.jsonl", given))
    assert report["values"]["accuracy"] == 50 and report["correct"]["popular_1"] == 1
    assert report["uncertainty"]["standard_error"] > 0
    bare = [{"question_id": n, "text": "yes"} for n in range(2)]
    file = write(tmp_path / "p.jsonl", bare)
    with pytest.raises(ValueError, match=r"a category of adversarial, popular, random, got ''"):
        run(tmp_path, "pope", file)
    assert run(tmp_path, "pope", file, "task.pope.split=popular")["questions"] == 2
    ordered = [{"question": "q", "answer": "yes"}] * 2  # as the official script reads them
    file = write(tmp_path / "p.jsonl", ordered)
    assert run(tmp_path, "pope", file, "task.pope.split=random")["score"] == 100


def test_mme_takes_the_folder_of_its_tool(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"MME/existence/{name}.txt", "Is it red?\tYes\nIs it blue?\tNo\n")
        write(tmp_path / f"MME/existence/{name}.jpg", png())
    lines = [
        f"{name}.jpg\t{asked}\t{truth}\t{said}"
        for name, said in (("a", "Yes"), ("b", "yes, it is"))
        for asked, truth in (("Is it blue?", "No"), ("Is it red?", "Yes"))
    ]
    lines[0] = lines[0].replace("\tYes", "\tno")
    write(tmp_path / "results/existence.txt", "\n".join(lines) + "\n")
    report = run(tmp_path, "mme", tmp_path / "results")
    assert report["score"] == 75 + 50  # three of four answers, one of two images
    assert report["uncertainty"]["groups"] == 2
    # Some line separators of Unicode are characters of an answer to the official tool.
    odd = [line.replace("yes, it is", "yes\u2028it\x0bis") for line in lines]
    write(tmp_path / "results/existence.txt", "\n".join(odd))
    assert run(tmp_path, "mme", tmp_path / "results")["score"] == 75 + 50
    none = [f"{line.rpartition(chr(9))[0]}\tmaybe" for line in lines]
    write(tmp_path / "results/existence.txt", "\n".join(none))
    notes = run(tmp_path, "mme", tmp_path / "results")["notes"]
    assert notes[1] == "the official script fails, as no answer is yes or no: existence"
    write(tmp_path / "results/existence.txt", f"{lines[0]} more\ttabs\n")
    with pytest.raises(ValueError, match=r"line 1 of .* must have 4 cells .* got 5"):
        run(tmp_path, "mme", tmp_path / "results")
    with pytest.raises(ValueError, match=r"a folder with TASK\.txt"):
        run(tmp_path, "mme", tmp_path / "MME")


def test_rows_of_scripts_that_also_hold_the_correct_answer(tmp_path: Path) -> None:
    table = "Index,Question,Options,Correct Answer\n1,q,(a) O (b) C,(a)\n2,q,(a) O (b) C,(b)\n"
    write(tmp_path / "MMVP/Questions.csv", table)
    rows = [{"question_id": n, "answer": "(a)", "response": "A"} for n in (1, 2)]
    assert run(tmp_path, "mmvp", write(tmp_path / "p.jsonl", rows))["correct"] == {"1": 1, "2": 0}
    item = {
        "dataset_name": "svt",
        "image_path": "a.png",
        "question": "q",
        "answers": ["ab"],
        "type": "x",
    }
    write(tmp_path / "OCRBench/OCRBench.json", [{**item, "id": 1}])
    file = write(tmp_path / "p.json", [{**item, "id": 1, "predict": "It says AB."}])
    assert run(tmp_path, "ocrbench", file)["score"] == 1
    row = {
        "category": "VD",
        "subcategory": "map",
        "visual_input": "1",
        "set_id": "0",
        "figure_id": "2",
    }
    row |= {"question_id": "0", "question": "q", "gt_answer": "1", "filename": "a.png"}
    write(tmp_path / "hallusion_bench/HallusionBench.json", [row])
    file = write(tmp_path / "p.json", [{**row, "model_prediction": "Yes."}])
    assert run(tmp_path, "hallusionbench", file)["correct"] == {"VD_map_0_2_0": 1}


TABLES = {
    "numbers of a spreadsheet": ("0.0\tA\n 1 \tB\n", {"0": 1, "1": 1}),
    "a quote in a cell": ('0\tA 5" pipe\n1\tB\n', {"0": 1, "1": 1}),
    "two lines in a cell": ('0\t"A\n""x""\ty"\n1\tB\n', {"0": 1, "1": 1}),
    "an open quote": ('0\t"A\n1\tB\n', "ends inside of a quoted cell"),
    "a column twice": ("", "must have different names, got 'prediction' twice"),
    "no UTF-8": ("0\t\udce9\n", "must be UTF-8"),
    "no answer": ("7\tA\n", r"at least one question, got missing: 4 .*; unknown: 1 \('7'\)"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_predictions(kind: str, tmp_path: Path) -> None:
    mmstar(tmp_path)
    text, expected = TABLES[kind]
    columns = "prediction\tprediction" if kind == "a column twice" else "prediction"
    raw = f"index\t{columns}\n{text}".encode("utf-8", "surrogateescape")
    file = write(tmp_path / "p.tsv", raw)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            run(tmp_path, "mmstar", file)
    else:
        assert run(tmp_path, "mmstar", file)["correct"] == expected


def test_workbooks_with_empty_rows_and_broken_ones(tmp_path: Path) -> None:
    from openpyxl import Workbook

    mmstar(tmp_path)
    book = Workbook()
    for row in (["index", "prediction"], [0, "A"], [None, None], [1.0, "A"]):
        book.active.append(row)
    book.save(tmp_path / "p.xlsx")
    assert run(tmp_path, "mmstar", tmp_path / "p.xlsx")["correct"] == {"0": 1, "1": 0}
    with pytest.raises(ValueError, match="must be a workbook of Excel"):
        run(tmp_path, "mmstar", write(tmp_path / "q.xlsx", "index"))


def test_questions_without_an_answer_or_a_number_are_named(tmp_path: Path) -> None:
    write(tmp_path / "MMStar.tsv", "index\tquestion\n3\tq\n")
    file = write(tmp_path / "p.json", [{"index": 3, "prediction": "A"}])
    with pytest.raises(ValueError, match="question 3 must have an answer"):
        run(tmp_path, "mmstar", file)
    write(tmp_path / "MMBench_DEV_EN.tsv", "index\tquestion\tanswer\tA\nx\tq\tA\ty\n")
    with pytest.raises(ValueError, match="must be a whole number, got 'x'"):
        run(tmp_path, "mmbench", write(tmp_path / "p.json", [{"index": "x", "prediction": "A"}]))


@pytest.mark.parametrize("text", ["a dog", "[[1, 2, 3]]", '{"a": 1}', "null", "[1, 2, 3, 4]", "[]"])
def test_an_answer_without_a_box_is_counted(text: str) -> None:
    from hdvl.evaluation.scorers.boxes import box_scores

    sample = Sample("1", "the dog", extra={"box": [0, 0, 10, 10], **SIZE})
    for form in ("pixels", "grit"):
        found = box_scores([sample], {"1": text}, form=form)
        assert found.value == 0 and found.unparsed == ["1"]


def test_an_image_of_mme_with_one_answer_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"MME/existence/{name}.txt", "Is it red?\tYes\nIs it blue?\tNo\n")
    rows = [{"id": f"existence/{one}", "prediction": "yes"} for one in ("a/0", "a/1", "b/0")]
    file = write(tmp_path / "p.json", rows)
    with pytest.raises(ValueError, match=r"missing 1 \('existence/b/1'\)"):
        run(tmp_path, "mme", file)
    report = run(tmp_path, "mme", file, "partial=true")
    assert report["score"] == 50 and "left out: 1 ('existence/b')" in report["notes"][-1]


def test_touchstone_rows_without_an_index_are_in_order() -> None:
    task = task_of("touchstone")
    assert task.identify is not None
    found = task.identify([Sample("0", "q"), Sample("x", "q")])
    assert [found(0, {"response": "a"}), found(1, {}), found(2, {}), found(0, {"index": 5})] == [
        *("0", "x", "row 3", "5"),
    ]


def test_an_empty_field_of_an_image_fails_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path / "MMStar.tsv", "index\tquestion\tanswer\timage\timage_path\n0\tq\tA\t\t\n")
    item = {
        "dataset_name": "svt",
        "image_path": "",
        "question": "q",
        "answers": ["ab"],
        "type": "x",
    }
    write(tmp_path / "OCRBench/OCRBench.json", [{**item, "id": 1}])
    for name in ("mmstar", "ocrbench"):
        (sample,) = task_of(name).samples(DataFolder(tmp_path))
        with pytest.raises(ValueError, match="the row has no image"):
            image_bytes(sample.images[0])
    file = write(tmp_path / "p.json", [{"index": 0, "prediction": "A"}])
    assert run(tmp_path, "mmstar", file)["score"] == 100


def test_predictions_for_generated_questions_need_no_folder() -> None:
    given = ["task=suite_reading", "predictions=answers.jsonl"]
    score.check(to_plain(compose(*given, config_name="score")))
    with pytest.raises(ValueError, match="data_dir must be given"):
        score.check(to_plain(compose("task=docvqa", *given[1:], config_name="score")))
