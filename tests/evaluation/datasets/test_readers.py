"""Each official format is read from a small made-up file, and scored under its protocol."""

import json
from pathlib import Path

import pytest

from hdvl.evaluation.metrics.cmmmu import CATEGORY_FOLDERS
from hdvl.evaluation.samples import image_bytes
from tests.evaluation.made_up import png, write, write_tsv
from tests.evaluation.tasks import opened, scored

TEN = [{"answer": "red" if n < 3 else "blue", "answer_id": n} for n in range(10)]


def test_vqav2(tmp_path: Path) -> None:
    question = {"question_id": 7, "image_id": 42, "question": "What colour?"}
    note = {"question_id": 7, "question_type": "what", "answer_type": "other", "answers": TEN}
    write(tmp_path / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [question]})
    write(tmp_path / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": [note]})
    _, (sample,) = opened("vqav2", tmp_path)
    assert str(sample.images[0]).endswith("COCO_val2014_000000000042.jpg")
    found = scored("vqav2", tmp_path, "Red.")
    assert found.value == pytest.approx(90) and found.tables["answer_type"] == {
        "other": pytest.approx(90)
    }


@pytest.mark.slow
def test_vizwiz_textvqa_and_gqa(tmp_path: Path) -> None:
    write(tmp_path / "vizwiz/val.json", [{"image": "a.jpg", "question": "q", "answers": TEN}])
    assert scored("vizwiz", tmp_path, {"a.jpg": "blue"}).value == 100
    row = {"question_id": 1, "image_id": "i", "question": "q", "answers": ["x"] * 10}
    write(tmp_path / "textvqa/TextVQA_0.5.1_val.json", {"data": [row]})
    write(tmp_path / "textvqa/ocr_tokens.jsonl", [{"question_id": 1, "tokens": ["A", "B"]}])
    task, (sample,) = opened("textvqa", tmp_path, "task.textvqa.protocol=llava")
    assert "\nReference OCR token: A, B\n" in task.chosen.text(sample)
    gqa = {
        "question": "Is it red?",
        "answer": "yes",
        "imageId": "9",
        "isBalanced": True,
        "types": {"structural": "verify", "semantic": "attr"},
        "groups": {"global": "colour"},
        "semantic": [],
        "entailed": [],
    }
    write(tmp_path / "gqa/testdev_balanced_questions.json", {"1": gqa})
    assert scored("gqa", tmp_path, "Yes.").value == 0
    assert scored("gqa", tmp_path, "Yes.", "task.gqa.protocol=llava").value == 100


@pytest.mark.slow
def test_chartqa_infovqa_and_ocrvqa(tmp_path: Path) -> None:
    for part, label in (("human", "100"), ("augmented", "50%")):
        row = {"imgname": "a.png", "query": "q", "label": label}
        write(tmp_path / f"chartqa/test_{part}.json", [row])
    found = scored("chartqa", tmp_path, "96")
    assert found.value == 50 and found.tables["part"] == {"augmented": 0, "human": 100}
    row = {"questionId": 3, "question": "q", "image_local_name": "3.jpg", "answers": ["a"]}
    write(tmp_path / "infovqa/infographicsVQA_val_v1.0.json", {"data": [row]})
    assert scored("infovqa", tmp_path, "A").value == 100
    book = {
        "imageURL": "http://x/1.jpg",
        "questions": ["q", "r"],
        "answers": ["a", "b"],
        "split": 3,
    }
    write(tmp_path / "ocrvqa/dataset.json", {"1": book, "2": {**book, "split": 1}})
    assert scored("ocrvqa", tmp_path, " A ").value == 50


def test_mmbench_is_circular(tmp_path: Path) -> None:
    row = {"question": "q", "A": "None", "B": "NA", "C": "", "category": "c", "split": "dev"}
    rows = [
        {**row, "index": "3", "answer": "A", "image": png()},
        {**row, "index": "1000003", "A": "NA", "B": "None", "answer": "B", "image": "3"},
        {**row, "index": "4", "answer": "B", "image": png(1), "hint": "nan"},
    ]
    write_tsv(tmp_path / "MMBench_DEV_EN.tsv", rows)
    _, samples = opened("mmbench", tmp_path)
    assert samples[0].options == {"A": "None", "B": "NA"} and samples[2].hint == ""
    assert samples[0].group == samples[1].group != samples[2].group
    assert image_bytes(samples[1].images[0]) == png()
    right = {"3": "A", "1000003": "B", "4": "B"}
    assert scored("mmbench", tmp_path, right).value == 100
    half = scored("mmbench", tmp_path, {**right, "1000003": "A"})
    assert half.value == 50 and half.values["vanilla accuracy"] == 100


def test_duplicate_ids_and_missing_columns_are_named(tmp_path: Path) -> None:
    rows = [{"index": "1", "question": "q", "A": "x", "answer": "A", "image": png()}] * 2
    write_tsv(tmp_path / "CCBench.tsv", rows)
    with pytest.raises(
        ValueError, match=r"ids of ccbench must be unique, got 1 twice, such as '1'"
    ):
        opened("ccbench", tmp_path)
    write_tsv(tmp_path / "CCBench.tsv", [{"index": "1", "answer": "A"}])
    with pytest.raises(ValueError, match="must have the column question, got index, answer"):
        opened("ccbench", tmp_path)


def test_mmmu_from_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {
        "id": ["validation_Art_1", "validation_Art_2"],
        "question": ["See <image 2>?", "Name it <image 1>"],
        "options": ["['<image 1>', 'b']", "[]"],
        "answer": ["A", "paris"],
        "question_type": ["multiple-choice", "open"],
        "image_1": [{"bytes": png(1), "path": None}] * 2,
        "image_2": [{"bytes": png(2), "path": None}, None],
    }
    (tmp_path / "MMMU/Art").mkdir(parents=True)
    pq.write_table(pa.table(rows), tmp_path / "MMMU/Art/validation-00000-of-00001.parquet")
    task, samples = opened("mmmu", tmp_path)
    assert [image_bytes(one) for one in samples[0].images] == [png(2), png(1)]
    text = task.chosen.text(samples[0])
    assert text.startswith("See <image>?\n\n(A) <image>\n(B) b\n\n") and "option's letter" in text
    assert "single word or phrase" in task.chosen.text(samples[1])
    answers = {"validation_Art_1": "?", "validation_Art_2": "Paris"}
    found = scored("mmmu", tmp_path, answers)
    assert found.value == 50 and found.unparsed == ["validation_Art_1"]
    assert found.tables["domain"]["Art and Design"] == 50


CMMMU_ROWS = [
    {
        **{
            "id": 7,
            "type": "选择",
            "question": '看<img="q_2.png">和<img="q_1.png">选',
            "answer": "B",
        },
        **{"option1": "甲", "option2": '<img="q_1.png">', "option3": "丙", "option4": "丁"},
        **{"img_list": ["q_1.png", "q_2.png"], "category": "商业", "subcategory": "会计"},
    },
    {
        **{"id": 8, "type": "判断", "question": '<img="q_1.png">对吗', "answer": "错"},
        **{"img_list": ["q_1.png"], "category": "商业", "subcategory": "会计"},
    },
]


def test_cmmmu_as_its_repository_has_it(tmp_path: Path) -> None:
    place = tmp_path / "CMMMU/cmmmu-data-val/business"
    with pytest.raises(FileNotFoundError, match=r"cmmmu-data-val/art_and_design/art_and_design"):
        opened("cmmmu", tmp_path)
    write(place / "business.jsonl", CMMMU_ROWS)
    write(place / "q_1.png", png())
    with pytest.raises(FileNotFoundError, match="art_and_design"):
        opened("cmmmu", tmp_path)  # a category is missing
    for name in CATEGORY_FOLDERS:
        if name != "business":
            write(tmp_path / f"CMMMU/cmmmu-data-val/{name}/{name}.jsonl", [])
    task, (choice, judged) = opened("cmmmu", tmp_path)
    assert [str(one).rpartition("/")[2] for one in choice.images] == [
        "q_2.png",
        "q_1.png",
        "q_1.png",
    ]
    assert choice.images[1] == place / "q_1.png" and choice.options["B"] == "<image>"
    assert task.chosen.text(judged).endswith("\n\n问题：<image>对吗\n正确答案：\n")
    assert scored("cmmmu", tmp_path, {"7": "选B。", "8": "错误"}).value == 100
    extracted = "task.cmmmu.protocols.official.score.extracted=true"
    assert scored("cmmmu", tmp_path, {"7": "选B。", "8": "错"}, extracted).value == 50
    lmms, (choice, _) = opened("cmmmu", tmp_path, "task.cmmmu.protocol=lmms_eval")
    assert "看<图片 2>和<图片 1>选\n选项：\n(A) 甲\n(B) <图片 1>\n" in lmms.chosen.text(choice)


@pytest.mark.slow
def test_other_choices(tmp_path: Path) -> None:
    row = {"id": 1, "type": "选择", "question": "问", "option1": "a", "option2": "b", "answer": "B"}
    write(tmp_path / "CMMMU/val.jsonl", [{**row, "category": "商业"}])
    assert scored("cmmmu", tmp_path, "B").value == 100
    star = {"index": "0", "question": "q A: x", "answer": "A", "category": "c", "image": png()}
    write_tsv(tmp_path / "MMStar.tsv", [star])
    assert scored("mmstar", tmp_path, "Apple").values["final of 1,500"] == pytest.approx(1 / 15)
    seed = {f"choice_{letter}": letter * 2 for letter in "abcd"} | {"answer": "C", "data_id": "x"}
    seed |= {"question_id": 5, "question": "q", "question_type_id": 1, "data_type": "image"}
    write(
        tmp_path / "seed_bench/SEED-Bench.json",
        {
            "questions": [seed, {**seed, "question_id": 6, "data_type": "video"}],
            "question_type": {"Scene": 1},
        },
    )
    task, (sample,) = opened("seedbench_img", tmp_path)
    assert task.chosen.candidates_of(sample) == {"A": "aa", "B": "bb", "C": "cc", "D": "dd"}
    problem = {"question": "q", "choices": ["x", "y"], "answer": 1, "image": "image.png"}
    write(tmp_path / "scienceqa/problems.json", {"1": problem, "2": {**problem, "image": None}})
    write(tmp_path / "scienceqa/pid_splits.json", {"test": ["1", "2"]})
    assert scored("scienceqa", tmp_path, "The answer is B.").value == 100
    table = (
        '"Index","Question","Options","Correct Answer"\n1,q,(a) O (b) C,(a)\n2,q,(a) O (b) C,(b)\n'
    )
    write(tmp_path / "MMVP/Questions.csv", table)
    assert scored("mmvp", tmp_path, {"1": "A", "2": "B."}).value == 100
    assert scored("mmvp", tmp_path, "A").values == {"pair accuracy": 0, "accuracy": 50}


def test_tables_of_vlmevalkit_in_place_of_official_files(tmp_path: Path) -> None:
    row = {"question": "q", "A": "x", "B": "y", "answer": "B", "image": png()}
    write_tsv(tmp_path / "ScienceQA_TEST.tsv", [{"index": 1, "hint": "h", **row}])
    task, (sample,) = opened("scienceqa", tmp_path, "task.scienceqa.protocol=qwen_vl")
    assert task.chosen.text(sample) == "Context: h\nQuestion: q\nOptions: A. x\nB. y\nAnswer:"
    assert scored("scienceqa", tmp_path, "B. y").value == 100
    write_tsv(tmp_path / "MMVP.tsv", [{"index": n, **row} for n in (10, 2, 1, 9)])
    answers = {"1": "B", "2": "the y", "9": "B", "10": "A"}
    assert scored("mmvp", tmp_path, answers).values == {"pair accuracy": 50, "accuracy": 75}
    rows = [
        {**row, "index": f"VD_x_x_0_{n}_0", "category": "VD", "l2-category": "map", "answer": "Yes"}
        for n in range(2)
    ]
    write_tsv(tmp_path / "HallusionBench.tsv", rows)
    said = {"VD_x_x_0_0_0": "Yes.", "VD_x_x_0_1_0": "no"}
    found = scored("hallusionbench", tmp_path, said)
    assert found.values == {"aAcc": 50, "fAcc": 50, "qAcc": 0}
    write_tsv(tmp_path / "HallusionBench.tsv", [{**rows[0], "index": "VD_0_0"}])
    with pytest.raises(ValueError, match="six words joined by _, got 'VD_0_0'"):
        opened("hallusionbench", tmp_path)


@pytest.mark.slow
def test_high_resolution_sets(tmp_path: Path) -> None:
    text = "Which?\n(A) red\n(B) blue\nAnswer with the option's letter."
    row = {
        "question_id": 0,
        "text": text,
        "label": "B",
        "category": "direct_attributes",
        "image": "a.jpg",
    }
    write(tmp_path / "vstar_bench/test_questions.jsonl", [row])
    _, (sample,) = opened("vstar_bench", tmp_path)
    assert sample.question == "Which?" and sample.options == {"A": "red", "B": "blue"}
    assert scored("vstar_bench", tmp_path, "B").value == 100
    real = {"Question_id": "r/1", "Text": "q", "Image": "i.png", "Ground truth": "C"}
    real |= {"Task": "Perception", "Subtask": "Monitoring", "Category": "person/Attribute/age"}
    real |= {"Answer choices": ["(A) one", "(B) two", "(C) three", "(D) 4", "(E) no such thing"]}
    write(tmp_path / "mme_realworld/MME_RealWorld.json", [real])
    found = scored("mme_realworld", tmp_path, "The best answer is (C) three")
    assert found.value == 100
    assert found.tables["category"] == {"Perception/Monitoring/person/attribute": 100}
    assert scored("mme_realworld", tmp_path, "three").value == 100  # by the text of the choice
    one = {"index": "0", "question": "q", "A": "x", "B": "y", "answer": "B", "category": "single"}
    write_tsv(tmp_path / "MME-RealWorld.tsv", [{**one, "image": png()}])
    toolkit = "task.mme_realworld.protocol=vlmevalkit"
    assert scored("mme_realworld", tmp_path, "<answer>b</answer>", toolkit).value == 100
    write_tsv(tmp_path / "HRBench4K.tsv", [{**one, "cycle_category": "0", "image": png()}])
    assert scored("hrbench_4k", tmp_path, "B").tables["category"] == {"single": 100}


@pytest.mark.slow
def test_yes_or_no(tmp_path: Path) -> None:
    write(tmp_path / "MME/existence/a.txt", "Is it red?\tYes\nIs it blue?\tNo\n")
    write(tmp_path / "MME/existence/a.jpg", png())
    _, samples = opened("mme", tmp_path)
    assert samples[0].images[0] == tmp_path / "MME/existence/a.jpg"
    found = scored("mme", tmp_path, {"existence/a/0": "Yes", "existence/a/1": "yes"})
    assert found.value == 50 and "cognition" in found.values
    for name in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": "a.jpg", "text": "q", "label": label}
            for n, label in enumerate(("yes", "no"))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write(tmp_path / f"pope/coco_pope_{name}.json", lines)
    assert scored("pope", tmp_path, "Yes, it is.").value == pytest.approx(200 / 3)
    item = {"category": "VD", "subcategory": "figure", "visual_input": "1", "set_id": "0"}
    item |= {
        "figure_id": "1",
        "question_id": "0",
        "question": "q",
        "gt_answer": "1",
        "filename": "a",
    }
    write(
        tmp_path / "hallusion_bench/HallusionBench.json",
        [item, {**item, "visual_input": "0", "figure_id": "0"}],
    )
    assert scored("hallusionbench", tmp_path, "Yes").values == {
        "aAcc": 100,
        "fAcc": 100,
        "qAcc": 100,
    }


@pytest.mark.slow
def test_ocrbench_mathvista_captions_and_boxes(tmp_path: Path) -> None:
    item = {"dataset_name": "IIIT5K", "type": "Regular Text Recognition", "image_path": "a.png"}
    write(tmp_path / "OCRBench/OCRBench.json", [{**item, "question": "q", "answers": ["coke"]}])
    found = scored("ocrbench", tmp_path, "A coke.")
    assert found.value == 1 and found.tables["group"] == {"Text Recognition": 1}
    problem = {"question": "q", "query": "Q?", "image": "a.png", "choices": None, "answer": "4"}
    problem |= {"precision": None, "question_type": "free_form", "answer_type": "integer"}
    write(tmp_path / "mathvista/testmini.json", {"1": problem, "2": problem})
    found = scored("mathvista", tmp_path, {"1": "4", "2": "it is four"})
    assert found.value == 50 and found.unparsed == ["2"] and "judge" in found.notes[0]
    images = [{"id": n, "file_name": f"{n}.jpg", "domain": "in-domain"} for n in (1, 2)]
    notes = [
        {"image_id": n, "caption": text} for n, text in ((1, "A red dog."), (2, "Two blue cats"))
    ]
    write(
        tmp_path / "nocaps/nocaps_val_4500_captions.json", {"images": images, "annotations": notes}
    )
    found = scored("nocaps", tmp_path, {"1": "a red dog", "2": "two blue cats"})
    assert found.values["BLEU-1"] == pytest.approx(100) and found.value > 100
    assert found.tables["domain"]["in-domain"] == pytest.approx(found.value)
    box = {
        "image": "a.jpg",
        "sent": "the dog",
        "bbox": [10, 20, 50, 60],
        "width": 100,
        "height": 200,
    }
    write(tmp_path / "refcoco/refcoco_val.jsonl", [box])
    assert scored("refcoco", tmp_path, "[[10, 20, 50, 60]]").value == 100
    internvl = "task.refcoco.protocol=internvl"
    assert scored("refcoco", tmp_path, "[[0.1, 0.1, 0.5, 0.3]]", internvl).value == 100
    toolkit = "task.refcoco.protocol=lmms_eval"
    shares = scored("refcoco", tmp_path, "It is [0.1, 0.1, 0.5, 0.25].", toolkit)
    assert shares.values["mean IoU"] == pytest.approx(75) and shares.value == 100
    assert shares.values["accuracy at IoU 0.9"] == 0 and shares.values["centre accuracy"] == 100
    assert scored("refcoco", tmp_path, "[0.5, 0.3, 0.1, 0.1]", toolkit).value == 0
    assert scored("refcoco", tmp_path, "[1, 2]", toolkit).unparsed == ["0"]
    swapped = scored("refcoco", tmp_path, "[[50, 60, 10, 20]]")
    assert swapped.value == 0 and scored("refcoco", tmp_path, "[]").unparsed == ["0"]
    assert scored("refcoco", tmp_path, "[[100, 100, 500, 300]]", internvl).value == 100
    given = "(100,100),(500,300)"
    assert scored("refcoco", tmp_path, given, "task.refcoco.protocol=qwen_vl").value == 100


def test_vstar_bench_in_its_three_forms(tmp_path: Path) -> None:
    for part, name in (("direct_attributes", "sa_1"), ("relative_position", "sa_2")):
        note = {
            "question": "Which?",
            "options": ["red", "blue", "a b", "c"],
            "bbox": [[1, 2, 3, 4]],
        }
        write(tmp_path / f"vstar_bench/{part}/{name}.json", {**note, "target_object": ["x"]})
        write(tmp_path / f"vstar_bench/{part}/{name}.jpg", png())
    official, samples = opened("vstar_bench", tmp_path, "task.vstar_bench.protocol=official")
    assert official.chosen.per_token and official.chosen.text(samples[0]) == "Which?"
    assert set(official.chosen.candidates_of(samples[0]).values()) == {"red", "blue", "a b", "c"}
    assert [one.options[one.answer] for one in samples] == ["red", "red"]
    assert samples[0].categories == {"category": "direct_attributes"} and samples[0].images
    hit = {one.id: one.answer for one in samples}
    wrong = {**hit, "direct_attributes/sa_1": "Z"}
    assert official.score(samples, wrong).value == 50

    lines = "Which?\n(A) red\n(B) blue\nAnswer with the letter."
    row = {"question_id": 0, "image": "a.jpg", "text": lines, "label": "B", "category": "c"}
    write(tmp_path / "vstar_bench/test_questions.jsonl", [row])
    lmms, (sample,) = opened("vstar_bench", tmp_path, "task.vstar_bench.protocol=lmms_eval")
    assert sample.options == {"A": "red", "B": "blue"} and sample.question == "Which?"
    ending = "\nAnswer with the option's letter from the given choices directly."
    assert lmms.chosen.text(sample) == f"Which?\nA. red\nB. blue\nAnswer with the letter.{ending}"
    # lmms-eval reads the A of "Answer"
    letters = {
        "(b)": 100,
        "Answer: B": 0,
        "The answer: B": 100,
        "the blue one": 100,
        "b or a": 100,
        "none": 0,
        "": 0,
    }
    for text, value in letters.items():
        assert lmms.score([sample], {"0": text}).value == value, text

    write_tsv(
        tmp_path / "VStarBench.tsv",
        [{"index": 0, "image": png(), "question": "Which?", "A": "x", "B": "y", "answer": "A"}],
    )
    assert scored("vstar_bench", tmp_path, "A").value == 100


def test_hrbench_averages_its_cycles(tmp_path: Path) -> None:
    rows = [
        {
            "index": n,
            "image": png(n),
            "question": " q",
            "A": "x",
            "B": "y",
            "answer": "A",
            "category": "single",
            "cycle_category": 0 if n < 3 else 1,
        }
        for n in range(4)
    ]
    write_tsv(tmp_path / "HRBench8K.tsv", rows)
    found = scored("hrbench_8k", tmp_path, {"0": "B", "1": "B", "2": "B", "3": "A"})
    assert found.value == 50 and found.tables["cycle"] == {"0": 0, "1": 100}
    task, samples = opened("hrbench_8k", tmp_path, "task.hrbench_8k.protocol=lmms_eval")
    assert task.chosen.text(samples[0]).endswith(
        "q\nA. x\nB. y\nAnswer the option letter directly."
    )


def test_grit_refexp(tmp_path: Path) -> None:
    rows = [
        {"example_id": f"e{n}", "image_id": f"coco/{n}.jpg", "task_query": "the dog"}
        for n in range(3)
    ]
    write(tmp_path / "GRIT/samples/ablation/refexp.json", rows)
    task, samples = opened("grit_refexp", tmp_path)
    assert task.hidden and not samples[0].extra and task.submission is not None
    answers = {"e0": "[[1.4, 2.6, 3, 4], [0, 0, 1, 1]]", "e1": "[]", "e2": "[[0, 0, 9, 9]]"}
    written = json.loads(task.submission(tmp_path, samples, answers).read_text())
    assert written[0] == {"example_id": "e0", "confidence": 1.0, "bboxes": [[1, 3, 3, 4]]}
    assert written[1]["bboxes"] == []
    truth = {"bboxes": [[0, 0, 10, 10]]}
    labelled = [{"input": row, "output": truth, "meta": {"is_new_source": False}} for row in rows]
    write(tmp_path / "GRIT/samples/ablation/refexp.json", labelled)
    given = {"e0": "[[0, 0, 10, 5]]", "e1": "[]", "e2": "[[0, 0, 10, 6], [0, 0, 10, 10]]"}
    found = scored("grit_refexp", tmp_path, given)
    assert found.value == pytest.approx(100 / 3)  # exactly half is not enough
    assert found.unparsed == ["e1"] and found.tables == {"source": {"same": pytest.approx(100 / 3)}}
