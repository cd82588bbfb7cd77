"""The tables of VLMEvalKit and lmms-lab's parquet files are scored as the official files are."""

import base64
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hdvl.evaluation import streamed
from hdvl.evaluation.samples import image_bytes
from hdvl.evaluation.scorers.short_answers import gqa_scores
from hdvl.evaluation.scores import Scores
from tests.evaluation.made_up import png, write, write_tsv
from tests.evaluation.tasks import opened, scored


def several(*seeds: int) -> str:
    """A cell with a list of images."""
    return str([base64.b64encode(png(seed)).decode() for seed in seeds])


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def same(found: Scores, wanted: Scores, ids: dict[str, str]) -> None:
    """Both have the same scores and tables, and the same verdict of each question by its two ids."""
    assert found.value == wanted.value and found.values == wanted.values
    assert found.tables == wanted.tables
    assert {ids[name]: hit for name, hit in found.correct.items()} == wanted.correct
    assert [ids[name] for name in found.unparsed] == wanted.unparsed


def test_mmmu(tmp_path: Path) -> None:
    official = {
        "id": [f"validation_{name}" for name in ("Art_Theory_1", "Art_Theory_2", "Math_1")],
        "question": ["Is <image 2> older?", "Name it. <image 1>", "Which <image 1> sum?"],
        "options": ["['<image 1>', 'b']", "[]", "['1', '2']"],
        "answer": ["A", "['paris', 'rome']", "B"],
        "image_1": [{"bytes": png(n), "path": None} for n in (1, 3, 4)],
        "image_2": [{"bytes": png(2), "path": None}, None, None],
    }
    write_parquet(tmp_path / "MMMU/All/validation-0.parquet", official)
    responses = ["(A)", "It is Rome.", "no idea"]
    said = dict(zip(official["id"], responses, strict=True))
    wanted = scored("mmmu", tmp_path, said)
    _, asked = opened("mmmu", tmp_path)

    theory = {"category": "Art Theory", "l2-category": "Art & Design", "split": "validation"}
    maths = {"category": "Science", "l2-category": "Math", "split": "validation"}
    one, two = ({"A": "<image 1>", "B": "b"}, {"A": "1", "B": "2"})
    images = (several(1, 2), png(3), several(4))
    kinds = ({**theory, **one}, theory, {**maths, **two})
    rows = [
        {"index": n, "question": question, "answer": answer, "image": image, **kind}
        for n, (question, answer, image, kind) in enumerate(
            zip(official["question"], official["answer"], images, kinds, strict=True), 31
        )
    ]
    rows += [{**rows[2], "index": 1, "split": "dev"}]
    rows += [{**rows[2], "index": 34, "question": "Without a number", "image": several(5, 6)}]
    table = tmp_path / "MMMU_DEV_VAL.tsv"
    write_tsv(table, rows[:4])
    task, samples = opened("mmmu", tmp_path)
    ids = dict(zip(("31", "32", "33"), official["id"], strict=True))
    assert [one.id for one in samples] == list(ids)  # the question of dev is left out
    for found, known in zip(samples, asked, strict=True):
        assert task.chosen.text(found) == task.chosen.text(known)
        assert list(map(image_bytes, found.images)) == list(map(image_bytes, known.images))
    responded = dict(zip(ids, responses, strict=True))
    same(scored("mmmu", tmp_path, responded), wanted, ids)
    assert wanted.tables["domain"] == {"Art and Design": 100, "Science": 0}
    assert [one.id for one in opened("mmmu", tmp_path, "task.mmmu.split=dev")[1]] == ["1"]
    write_tsv(table, rows[4:])
    assert len(opened("mmmu", tmp_path)[1][0].images) == 2
    with pytest.raises(ValueError, match="must have rows with dev in the column split"):
        opened("mmmu", tmp_path, "task.mmmu.split=dev")
    write_tsv(table, [{**rows[0], "image": png(1)}])
    with pytest.raises(ValueError, match=r"question 31 of MMMU_DEV_VAL\.tsv must have 2 images"):
        opened("mmmu", tmp_path)


def test_cmmmu(tmp_path: Path) -> None:
    options = {"option1": "甲", "option2": '<img="q_1.png">', "option3": "丙", "option4": "丁"}
    shared = {"category": "商业", "subcategory": "会计"}
    choice = {"type": "选择", "question": '看<img="q_1.png">选', "answer": "B", **options, **shared}
    judged = {"type": "判断", "question": "这句话对吗", "answer": "错", **shared}
    blank = {"type": "填空", "question": "多少", "answer": "5", **shared}
    rows = [choice, judged, blank]
    named = {"img_list": ["q_1.png"]}
    write(tmp_path / "CMMMU/val.jsonl", [{"id": n, **row, **named} for n, row in enumerate(rows)])
    write(tmp_path / "CMMMU/images/q_1.png", png())
    said = {"0": "选B。", "1": "这是错误的", "2": "等于6"}
    wanted = scored("cmmmu", tmp_path, said)
    protocol = "task.cmmmu.protocol=lmms_eval"
    texts = {}
    for chosen in ("task.cmmmu.protocol=official", protocol):
        task, asked = opened("cmmmu", tmp_path, chosen)
        texts[chosen] = [task.chosen.text(one) for one in asked]

    (tmp_path / "CMMMU/val.jsonl").unlink()
    table = tmp_path / "CMMMU_VAL.tsv"
    write_tsv(table, [{"index": n, **row, "image": png()} for n, row in enumerate(rows)])
    for chosen, known in texts.items():
        task, samples = opened("cmmmu", tmp_path, chosen)
        assert [task.chosen.text(one) for one in samples] == known
        assert [len(one.images) for one in samples] == [2, 1, 1]  # the image is named twice
        assert image_bytes(samples[0].images[1]) == png()
    same(scored("cmmmu", tmp_path, said), wanted, {name: name for name in said})

    question = '比较<img="q_2.png">和<img="q_1.png">'
    write_tsv(table, [{"index": 9, **judged, "question": question, "image": several(1, 2)}])
    task, (sample,) = opened("cmmmu", tmp_path)
    assert list(map(image_bytes, sample.images)) == [png(1), png(2)]
    assert question in task.chosen.text(sample)  # which image a name means is not known
    write_tsv(table, [{"index": 9, "question": "q"}])
    with pytest.raises(ValueError, match=r"CMMMU_VAL\.tsv must have the column type, got index"):
        opened("cmmmu", tmp_path)


def test_mathvista(tmp_path: Path) -> None:
    hint = "Hint: Give a floating-point number with {} decimal places.\nQuestion: How long?"
    two = hint.format("two")
    shared = {"metadata": {"task": "geometry", "context": "chart", "skills": ["a", "b"]}}
    problems = [
        {"question_type": "multi_choice", "answer_type": "text", "answer": "blue", "query": "C?"},
        {"question_type": "free_form", "answer_type": "integer", "answer": "4", "query": "N?"},
        {"question_type": "free_form", "answer_type": "float", "answer": "1.46", "query": two},
        {"question_type": "free_form", "answer_type": "list", "answer": "[1, 2]", "query": "L?"},
    ]
    choices = ["red", "blue"]
    official = {
        str(n): {
            **{**one, **shared, "image": "a.png"},
            "choices": choices if n == 0 else None,
            "precision": 2.0 if n == 2 else None,
        }
        for n, one in enumerate(problems)
    }
    write(tmp_path / "mathvista/testmini.json", official)
    said = {"0": 'The answer is "B".', "1": "4", "2": "1.457", "3": "somewhere"}
    wanted = scored("mathvista", tmp_path, said)
    assert wanted.value == 75 and wanted.unparsed == ["3"]

    (tmp_path / "mathvista/testmini.json").unlink()
    rows = [
        {
            **{"index": n, "image": png(), "question": one["query"], "answer": one["answer"]},
            **{"question_type": one["question_type"], "answer_type": one["answer_type"]},
            **{"choices": str(choices) if n == 0 else "", "answer_option": "B" if n == 0 else ""},
            **{"task": "geometry", "context": "chart", "skills": "['a', 'b']"},
        }
        for n, one in enumerate(problems)
    ]
    table = tmp_path / "MathVista_MINI.tsv"
    write_tsv(table, rows)
    same(scored("mathvista", tmp_path, said), wanted, {name: name for name in said})
    assert opened("mathvista", tmp_path)[1][0].extra["problem"]["metadata"] == shared["metadata"]
    write_tsv(table, [{**rows[2], "question": "How long?", "precision": "1.0", "answer": "1.5"}])
    assert scored("mathvista", tmp_path, "1.457").value == 100
    write_tsv(table, [{**rows[0], "answer": "green", "answer_option": ""}])
    with pytest.raises(ValueError, match="must be one of its choices"):
        opened("mathvista", tmp_path)
    write_tsv(table, [{**rows[2], "question": "How long?"}])
    with pytest.raises(ValueError, match=r"question 2 of MathVista_MINI\.tsv must say how many"):
        opened("mathvista", tmp_path)


def test_gqa(tmp_path: Path) -> None:
    answers = ["yes", "red", "dog"]
    official = {
        str(n): {
            **{"question": f"Question {n}?", "answer": answer, "imageId": "9"},
            **{"isBalanced": True, "groups": {"global": None}, "semantic": [], "entailed": []},
            "types": {"structural": "verify", "semantic": "attr"},
        }
        for n, answer in enumerate(answers)
    }
    file = write(tmp_path / "gqa/testdev_balanced_questions.json", official)
    said = {"0": "yes", "1": "Red.", "2": "cat"}
    protocols = [f"task.gqa.protocol={name}" for name in ("official", "llava", "lmms_eval")]
    wanted = [scored("gqa", tmp_path, said, protocol) for protocol in protocols]
    rows = [
        {"index": n, "image": png(), "question": f"Question {n}?", "answer": answer}
        for n, answer in enumerate(answers)
    ]
    write_tsv(tmp_path / "GQA_TestDev_Balanced.tsv", rows)
    assert "structural" in scored("gqa", tmp_path, said).tables  # the official file is preferred
    file.unlink()
    for protocol, known in zip(protocols, wanted, strict=True):
        found = scored("gqa", tmp_path, said, protocol)
        assert (found.value, found.correct) == (known.value, known.correct)
    assert [round(one.value) for one in wanted[:2]] == [33, 67]
    found = scored("gqa", tmp_path, said)
    assert "need gqa/testdev_balanced_questions.json" in found.notes[0] and not found.tables
    scorer = streamed.streamed(partial(gqa_scores, convert="llava"))
    assert scorer is not None
    _, samples = opened("gqa", tmp_path)
    scorer.add(samples, list(said.values()))
    assert scorer.scores().value == pytest.approx(wanted[1].value)
    assert scorer.scores().notes == found.notes


def test_refcoco(tmp_path: Path) -> None:
    sentences, box = ["the dog", "it"], [10.0, 20.0, 18.0, 12.0]
    columns: dict[str, list[Any]] = {
        "question_id": ["7", "8"],
        "image": [{"bytes": png(n), "path": None} for n in range(2)],
        "question": ["Describe the box."] * 2,
        "answer": [sentences, ["a cat"]],
        "bbox": [box, [0.0, 0.0, 4.0, 4.0]],
        "file_name": [f"COCO_train2014_000000000005_{n}.jpg" for n in range(2)],
    }
    with pytest.raises(FileNotFoundError, match=r"refcoco_val\.jsonl"):
        opened("refcoco", tmp_path)
    write_parquet(tmp_path / "RefCOCO/data/val-00000-of-00001.parquet", columns)
    said = {"0": "[[10, 20, 28, 32]]", "1": "[[10, 20, 20, 24]]", "2": "none"}
    found = scored("refcoco", tmp_path, said)
    _, samples = opened("refcoco", tmp_path)
    assert [one.question for one in samples] == ["the dog", "it", "a cat"]
    assert image_bytes(samples[2].images[0]) == png(1)
    assert {one.group for one in samples} == {"COCO_train2014_000000000005"}
    size = {"image": "a.jpg", "width": 48, "height": 40}
    lines = [{**size, "sent": text, "bbox": [10, 20, 28, 32]} for text in sentences]
    lines += [{**size, "sent": "a cat", "bbox": [0, 0, 4, 4]}]
    write(tmp_path / "refcoco/refcoco_val.jsonl", lines)
    same(found, scored("refcoco", tmp_path, said), {name: name for name in said})
    assert found.value == pytest.approx(100 / 3) and found.unparsed == ["2"]
