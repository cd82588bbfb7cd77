"""Every form of predictions gives the same scores and the same problems, whatever scores the task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hdvl import score
from hdvl.config import compose, to_plain
from hdvl.evaluation.metrics.cmmmu import CATEGORY_FOLDERS
from hdvl.files import read_json
from tests.evaluation.made_up import write, write_tsv
from tests.evaluation.test_prediction_faults import FORMS, save

Pairs = list[tuple[str, str]]
COUNT = 6
TEXTS = [str(number + 1) for number in range(COUNT)]


def numbered(ids: Callable[[int], str]) -> Pairs:
    return [(ids(n), text) for n, text in enumerate(TEXTS)]


def docvqa(root: Path) -> Pairs:
    rows = [
        {"questionId": n, "question": "q", "image": "a.png", "answers": [text]}
        for n, text in enumerate(TEXTS)
    ]
    write(root / "docvqa/val_v1.0.json", {"data": rows})
    return numbered(str)


def gqa(root: Path) -> Pairs:
    fixed = {"question": "q", "imageId": "1", "isBalanced": True, "semantic": [], "entailed": []}
    fixed |= {"types": {"structural": "verify", "semantic": "attr"}, "groups": {"global": "c"}}
    rows = {str(n): {**fixed, "answer": text} for n, text in enumerate(TEXTS)}
    write(root / "gqa/testdev_balanced_questions.json", rows)
    return numbered(str)


def cmmmu(root: Path) -> Pairs:
    fixed = {
        "type": "填空",
        "question": "填",
        "img_list": [],
        "category": "商业",
        "subcategory": "会计",
    }
    rows = [{**fixed, "id": n, "answer": text} for n, text in enumerate(TEXTS)]
    for name in CATEGORY_FOLDERS:
        write(
            root / f"CMMMU/cmmmu-data-val/{name}/{name}.jsonl", rows if name == "business" else []
        )
    return numbered(str)


def mmmu(root: Path) -> Pairs:
    fixed = {"question": "q", "category": "Math", "split": "validation"}
    write_tsv(
        root / "MMMU_DEV_VAL.tsv",
        [{**fixed, "index": n, "answer": text} for n, text in enumerate(TEXTS)],
    )
    return numbered(str)


def mmbench(root: Path) -> Pairs:
    fixed = {"question": "q", "A": "x one", "B": "y two", "category": "c", "split": "dev"}
    found = [
        (str(n + turn * 1_000_000), "AB"[(n + turn) % 2]) for turn in range(2) for n in range(3)
    ]
    write_tsv(
        root / "MMBench_DEV_EN.tsv",
        [{**fixed, "index": n, "answer": letter} for n, letter in found],
    )
    return found


def mmstar(root: Path) -> Pairs:
    found = [(str(n), "AB"[n % 2]) for n in range(COUNT)]
    fixed = {"question": "q", "A": "x one", "B": "y two", "category": "c"}
    write_tsv(root / "MMStar.tsv", [{**fixed, "index": n, "answer": letter} for n, letter in found])
    return found


def mme(root: Path) -> Pairs:
    for n in range(3):
        write(root / f"MME/existence/{n}.txt", "Is it red?\tYes\nIs it blue?\tNo\n")
    return [(f"existence/{n}/{k}", ("Yes", "No")[k]) for n in range(3) for k in range(2)]


def pope(root: Path) -> Pairs:
    labels, splits = ("yes", "no"), ("random", "popular", "adversarial")
    fixed = {"image": "a.jpg", "text": "q"}
    for split in splits:
        rows = [{**fixed, "question_id": n, "label": label} for n, label in enumerate(labels)]
        write(root / f"pope/coco_pope_{split}.jsonl", rows)
    return [(f"{split}_{n}", label) for split in splits for n, label in enumerate(labels)]


def hallusionbench(root: Path) -> Pairs:
    fixed = {"category": "VD", "subcategory": "map", "visual_input": "1", "question_id": "0"}
    fixed |= {"question": "q", "filename": "a.png", "set_id": "0"}
    rows = [{**fixed, "figure_id": str(n), "gt_answer": str(n % 2)} for n in range(COUNT)]
    write(root / "hallusion_bench/HallusionBench.json", rows)
    return [(f"VD_map_0_{n}_0", ("No", "Yes")[n % 2]) for n in range(COUNT)]


def mathvista(root: Path) -> Pairs:
    fixed = {"question": "q", "query": "q", "image": "a.png", "choices": None, "precision": None}
    fixed |= {"question_type": "free_form", "answer_type": "integer"}
    write(
        root / "mathvista/testmini.json",
        {str(n): {**fixed, "answer": text} for n, text in enumerate(TEXTS)},
    )
    return numbered(str)


def nocaps(root: Path) -> Pairs:
    found = [(str(n), f"{text} red dogs here") for n, text in enumerate(TEXTS)]
    images = [{"id": int(name), "file_name": "a.jpg"} for name, _ in found]
    notes = [{"image_id": int(name), "caption": text} for name, text in found]
    write(root / "nocaps/nocaps_val_4500_captions.json", {"images": images, "annotations": notes})
    return found


def refcoco(root: Path) -> Pairs:
    row = {"image": "a.jpg", "sent": "dog", "bbox": [10, 20, 50, 60], "width": 100, "height": 200}
    write(root / "refcoco/refcoco_val.jsonl", [row] * COUNT)
    return [(str(n), "[[10, 20, 50, 60]]") for n in range(COUNT)]


BEST = {
    **{
        docvqa: 100,
        gqa: 100,
        cmmmu: 100,
        mmmu: 100,
        mmbench: 100,
        mmstar: 100,
        mme: 200,
        pope: 100,
    },
    **{hallusionbench: 100, mathvista: 100, nocaps: 1000, refcoco: 100},
}


@pytest.mark.slow
@pytest.mark.parametrize("make", BEST, ids=lambda make: make.__name__)
def test_every_form_gives_the_same_scores_and_problems(
    make: Callable[[Path], Pairs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, name, out = make(tmp_path), make.__name__, tmp_path / "out.json"
    words = [f"task=[{name}]", f"data_dir={tmp_path}", "predictions=x", f"out={out}"]
    config: dict[str, Any] = to_plain(compose(*words, config_name="score"))

    def report(pairs: list[tuple[str, Any]], form: str, **keys: Any) -> dict[str, Any]:
        score.run({**config, **keys, "predictions": str(save(tmp_path / form, pairs))})
        found: dict[str, Any] = read_json(out)
        return found

    numbers = [(one, int(text) if text.isdigit() else text) for one, text in right]
    faulty = [(right[2][0], "zzz"), *right[:2], *right[3:], right[2], ("nosuch", "x")]
    faults, refusals = list[str](), set[str]()
    for form in FORMS:
        assert report(right, form)["score"] == pytest.approx(BEST[make]), form
        assert report(numbers, form)["score"] == pytest.approx(BEST[make]), form
        whole = report(right[:-2], form, partial=True)
        assert whole["problem_counts"] == {
            "missing": 2,
            "duplicate": 0,
            "unknown": 0,
            "not_text": 0,
            "empty": 0,
        }
        if name == "pope" and form != "mapping.json":  # an id without a split is refused
            continue
        found = report(faulty, form, partial=True)
        assert found["problem_counts"] == {
            "missing": 0,
            "duplicate": 1,
            "unknown": 1,
            "not_text": 0,
            "empty": 0,
        }
        faults.append(json.dumps([found["score"], found["correct"]]))
        try:
            report(right[:-2], form)
        except ValueError as error:
            refusals.add(str(error))
        else:
            refusals.add("")
    assert len(set(faults)) == len(refusals) == 1
