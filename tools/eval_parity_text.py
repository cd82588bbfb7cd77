"""Values of texts, captions, boxes and judged answers by hdvl and by the official scorers."""

from collections.abc import Iterator, Mapping
from typing import Any

from eval_parity import Check, Compared, Data, expected_of

from hdvl.evaluation.metrics import (
    anls,
    llava_bench,
    mathvista,
    relaxed_accuracy,
    touchstone,
    vqa_accuracy,
    vqa_text,
)
from hdvl.evaluation.metrics.bleu import bleu
from hdvl.evaluation.metrics.boxes import grit_iou, grit_refexp, refcoco_overlap
from hdvl.evaluation.metrics.cider import cider_d
from hdvl.evaluation.metrics.ocrbench import ocrbench_hit
from hdvl.evaluation.metrics.ptb_tokenizer import tokenize
from hdvl.evaluation.metrics.rouge import mean_rouge_l


def check_vqa(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        answers, given = case["answers"], case["prediction"]
        values = {
            "vqa_official_acc_percent": round(100 * vqa_accuracy.vqa_accuracy(answers, given), 2),
            "vqa_official_normalised_prediction": vqa_text.normalised(vqa_text.clean_space(given)),
            "textvqa_m4c_acc": vqa_accuracy.m4c_accuracy(answers, given),
            "textvqa_m4c_normalised_prediction": vqa_text.normalised_m4c(given),
            "lmms_eval_vqav2": float(vqa_accuracy.lmms_eval_accuracy(answers, given)),
            "lmms_eval_textvqa": vqa_accuracy.m4c_accuracy(answers, given),
            "vlmevalkit_acc": vqa_accuracy.vlmevalkit_accuracy(answers, given),
            "vlmevalkit_normalised_prediction": vqa_text.normalised_vlmevalkit(given),
        }
        yield from expected_of(case, str(case["question_id"]), values)


def check_answer_ids(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        red = case["n_red"]
        bare: list[Mapping[str, object]] = [{"answer": "red"}] * red
        bare += [{"answer": "blue"}] * (10 - red)
        numbered = [{**record, "answer_id": number} for number, record in enumerate(bare)]
        share = vqa_accuracy.vqa_accuracy_of_records
        values = {
            "with_answer_id": 100 * share(numbered, "red"),
            "without_answer_id": round(100 * share(bare, "red"), 6),
        }
        yield from expected_of(case, str(red), values)


def check_anls(data: Data) -> Iterator[Compared]:
    versions = {
        "rrc_official": anls.anls,
        "vlmevalkit": anls.anls,
        "lmms_eval": anls.anls,
        "pix2struct": anls.anls_pix2struct,
        "mp_docvqa_framework": anls.anls_mp_docvqa,
        "m4c_stvqa": anls.anls_m4c,
    }
    for case in data["cases"]:
        for key, version in versions.items():
            if isinstance(case.get(key), int | float):  # a text where the scorer itself failed
                got = version(case["answers"], case["prediction"])
                yield f"{case['prediction']!r} {key}", got, case[key]


def check_relaxed(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        target, given = case["target"], case["prediction"]
        correct = relaxed_accuracy.relaxed_correct(target, given)
        values = {
            "pix2struct_official": correct,
            "pix2struct_on_stripped_prediction": relaxed_accuracy.relaxed_correct(
                target, given.strip()
            ),
            "qwen_vl_swapped_arguments": relaxed_accuracy.relaxed_correct_swapped(target, given),
        }
        yield from expected_of(case, f"{given!r} for {target!r}", values)


def check_cider(data: Data) -> Iterator[Compared]:
    keys = list(data["references"])
    texts = [text for key in keys for text in data["references"][key]]
    tokens = iter(tokenize(texts))
    references = {key: [next(tokens) for _ in data["references"][key]] for key in keys}
    yield "references", references, data["tokenised_references"]
    base = data["cases"][0]["predictions"]
    for case in data["cases"]:
        raw = case.get("predictions", base)
        chosen = [str(key) for key in case.get("image_ids", raw)]
        lines = tokenize([raw[key][0] for key in chosen])
        predictions = dict(zip(chosen, lines, strict=True))
        result = cider_d(predictions, references)
        values = {
            "tokenised_predictions": {key: [line] for key, line in predictions.items()},
            "cider": result.score,
            "cider_per_image": result.per_image,
            "bleu": bleu(predictions, references),
            "rouge_l": mean_rouge_l(predictions, references),
        }
        yield from expected_of(case, case["name"], values)
    yield from check_tokenizer(
        {"cases": data["tokenizer_cases"] if "tokenizer_cases" in data else []}
    )


def check_tokenizer(data: Data) -> Iterator[Compared]:
    lines = tokenize([case["text"] for case in data["cases"]])
    for case, line in zip(data["cases"], lines, strict=True):
        yield repr(case["text"]), line, case["tokens"]


def check_boxes(data: Data) -> Iterator[Compared]:
    for number, case in enumerate(data["cases"]):
        if case["kind"] == "grit_refexp":
            first, true = case["pred_boxes"], case["gt_boxes"]
            values: dict[str, Any] = {"score": grit_refexp(first, true)}
            values["iou"] = grit_iou(first[0], true[0]) if first else None
        else:
            size = {"width": case["width"], "height": case["height"]}
            found = refcoco_overlap(case["answer"], case["gt_xyxy"], **size)
            values = {"pred_box_pixels": found.box, "iou": found.iou, "correct": found.correct}
        yield from expected_of(case, f"{number} {case.get('answer', '')}", values)


def check_ocrbench(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        hit = ocrbench_hit(case["dataset_name"], case["answers"], case["predict"])
        yield repr(case["predict"]), int(hit), case["result"]


def check_mathvista(data: Data) -> Iterator[Compared]:
    keys = ("question_type", "answer_type", "answer", "choices", "precision")
    for number, case in enumerate(data["cases"]):
        problem = mathvista.MathVistaProblem(**{key: case[key] for key in keys})
        values = {
            "normalised": mathvista.normalised_answer(case["extraction"], problem),
            "correct": mathvista.mathvista_correct(case["extraction"], problem),
        }
        yield from expected_of(case, f"{number} {case['extraction']!r}", values)


def check_llava_bench(data: Data) -> Iterator[Compared]:
    for case in data["parse_score_cases"] if "parse_score_cases" in data else []:
        yield repr(case["review"]), list(llava_bench.parse_review(case["review"])), case["scores"]
    for case in data["cases"]:
        reviews = [(one.get("category"), tuple(one["tuple"])) for one in case["reviews"]]
        table = llava_bench.score_llava_bench(reviews)
        printed = [line.rsplit(" ", 3) for line in case["stdout"].splitlines()]
        expected = {line[0]: [float(one) for one in line[1:]] for line in printed if len(line) == 4}
        yield (
            "table",
            {name: [one.relative, one.reference, one.model] for name, one in table.items()},
            expected,
        )


def check_touchstone(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        rows = [
            (
                row["category"],
                [
                    touchstone.Round(
                        (one["model1"], one["model2"]),
                        (one["score1"], one["score2"]),
                        failed=one["reason"] == touchstone.FAILED,
                    )
                    for one in (row["round1"], row["round2"])
                ],
            )
            for row in case["rows"]
        ]
        score = touchstone.score_touchstone(rows)
        got = {"TouchStone Overall Score": score.overall, **score.categories}
        expected: dict[str, dict[str, float]] = {}
        table: dict[str, float] = {}
        for line in case["stdout"].splitlines():
            if line.startswith(" -----"):
                table = expected.setdefault(line.strip(" -"), {})
            else:
                model, value = line.rsplit(" ", 1)
                table[model] = float(value)
        yield "table", got, expected


CHECKS: dict[str, Check] = {
    "anls": check_anls,
    "cider": check_cider,
    "llava_bench": check_llava_bench,
    "mathvista": check_mathvista,
    "ocrbench": check_ocrbench,
    "ptb_tokenizer": check_tokenizer,
    "refcoco_iou": check_boxes,
    "relaxed_accuracy": check_relaxed,
    "touchstone": check_touchstone,
    "vqa_accuracy": check_vqa,
    "vqa_answer_id_trap": check_answer_ids,
}
