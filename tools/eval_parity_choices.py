"""Values of multiple-choice and yes-or-no benchmarks by hdvl and by the official scorers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from eval_parity import Check, Compared, Data, expected_of

from hdvl.evaluation.metrics import (
    circular,
    cmmmu,
    hallusionbench,
    mme,
    mmmu,
    option_inference,
    pope,
)
from hdvl.evaluation.metrics.gqa import llava_answer, score_gqa
from hdvl.evaluation.metrics.mmstar import mmstar_hit
from hdvl.evaluation.metrics.scienceqa import parse_scienceqa
from hdvl.evaluation.metrics.yes_no import extract_yes_no


def unordered(values: Iterable[object]) -> list[str]:
    return sorted(map(repr, values))


def check_mmmu(data: Data) -> Iterator[Compared]:
    for number, case in enumerate(data["cases"]):
        label = f"{number} {case.get('response')!r}"
        if case["kind"] == "multiple-choice":
            choice = mmmu.parse_choice(case["response"], case["all_choices"], case["index2ans"])
            values: dict[str, Any] = {"parsed": choice, "random_fallback": choice is None}
            yield from expected_of(case, label, values)
        elif case["kind"] == "open":
            parsed = mmmu.parse_open(case["response"])
            yield f"{label} parsed", unordered(parsed), unordered(case["parsed_list"])
            yield f"{label} correct", mmmu.open_correct(case["answer"], parsed), case["correct"]
        else:
            yield label, mmmu.choice_correct(case["answer"], case["parsed"]), case["correct"]


def check_cmmmu(data: Data) -> Iterator[Compared]:
    for number, case in enumerate(data["cases"]):
        label, response, answer = f"{number} {case['response']!r}", case["response"], case["answer"]
        if case["type"] == "填空":
            texts = cmmmu.parse_blank(response, answer)
            yield f"{label} parsed", unordered(texts), unordered(case["parsed"])
            yield f"{label} correct", cmmmu.blank_correct(answer, texts), case["correct"]
            continue
        if case["type"] == "选择":
            choice = cmmmu.parse_choice(response, case["index2ans"])
            yield f"{label} parsed", choice, case["parsed"]
        else:
            phrases = cmmmu.parse_judgement(response)
            choice = cmmmu.judge(phrases)
            yield f"{label} parsed", unordered(phrases), unordered(case["parsed"])
        yield f"{label} random", choice is None, case["random_fallback"]
        if not case["random_fallback"]:
            yield f"{label} correct", choice == answer, case["correct"]


def check_mme(data: Data) -> Iterator[Compared]:
    for case in data["parse_cases"]:
        yield repr(case["prediction"]), mme.parse_mme(case["prediction"]), case["parsed"]
    for case in data["cases"]:
        score = mme.score_mme(case["tasks"])
        tables = {
            "Perception": (mme.PERCEPTION, score.perception),
            "Cognition": (mme.COGNITION, score.cognition),
        }
        for group, (names, total) in tables.items():
            got = {name: score.tasks[name].score for name in names if name in score.tasks}
            yield group, {"total": total, **got}, case["expected"][group]


def check_pope(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        score, expected = pope.score_pope(case["predictions"], case["labels"]), case["expected"]
        if isinstance(expected, str):  # where the official script divides by zero
            yield case["name"], score.undefined != [], True
            continue
        values = {
            "parsed": [pope.parse_pope(text) for text in case["predictions"]],
            "TP": score.true_positive,
            "FP": score.false_positive,
            "TN": score.true_negative,
            "FN": score.false_negative,
        }
        for key in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            values[key] = getattr(score, key)
        yield from expected_of(expected, case["name"], values)


def check_gqa(data: Data) -> Iterator[Compared]:
    questions = next(case["questions"] for case in data["cases"] if "questions" in case)
    for case in data["cases"]:
        questions = case.get("questions", questions)  # the cases may share them
        answers = case["predictions"]
        if case["name"].startswith("llava"):
            answers = {key: llava_answer(text) for key, text in answers.items()}
        score = score_gqa(questions, answers)
        values: dict[str, Any] = {
            "Binary": score.binary,
            "Open": score.open,
            "Accuracy": score.accuracy,
            "Consistency": score.consistency or 0.0,
            "Distribution": score.distribution,
            **score.structural,
            **score.semantic,
        }
        # The recorded tables share one dictionary: word counts replace equal step counts.
        values |= {str(key): value for key, value in {**score.steps, **score.words}.items()}
        yield from expected_of(case["expected_percent"], case["name"], values)


def check_hallusionbench(data: Data) -> Iterator[Compared]:
    for number, case in enumerate(data["cases"]):
        items = [
            hallusionbench.HallusionItem(
                *(str(item[key]) for key in ("category", "subcategory", "set_id")),
                *(str(item[key]) for key in ("figure_id", "question_id")),
                visual_input=int(item["visual_input"]),
                truth=int(item["gt_answer"]),
                code=int(item["gpt4v_output_gpt_check"]),
                same=str(item["same"]) == "1",
            )
            for item in case["items"]
        ]
        score = hallusionbench.score_hallusionbench(items)
        values = {
            "aAcc": score.all_accuracy,
            "qAcc": score.pair_accuracy,
            "fAcc": score.figure_accuracy,
            "easy_aAcc_column": score.easy_pairs,
            "hard_aAcc_column": score.hard_pairs,
            "yes_pct_diff": score.yes_difference,
            "fp_ratio": score.false_positive_ratio,
        }
        yield from expected_of(case["expected"], str(number), values)
        causes = {f"{name}_cg": count for name, count in score.item_causes.items()}
        tables: dict[str, Mapping[str, Any]] = {
            "per_question": score.question_causes,
            "per_pair": {**score.pair_causes, **causes},
            "per_figure": score.figures,
        }
        for name, table in tables.items():
            yield from expected_of(case["expected"].get(name, {}), f"{number} {name}", table)


def check_scienceqa(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        index = parse_scienceqa(case["text"], case["n_choices"])
        values = {"parsed_index": index, "correct": index == case["gold"]}
        yield from expected_of(case, repr(case["text"]), values)


def check_mmstar(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        yield (
            repr(case["prediction"]),
            mmstar_hit(case["prediction"], case["answer"]),
            case["correct"],
        )


def check_can_infer(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        got = option_inference.can_infer(case["prediction"], case["choices"]) or False
        yield repr(case["prediction"]), got, case["can_infer"]


def check_circular(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        rows = [
            circular.ChoiceRow(
                index=row["index"],
                answer=row["answer"],
                prediction=row["prediction"],
                choices=circular.options_of(row),
                category=row.get("category"),
                l2_category=row.get("l2-category"),
                split=row.get("split", "none"),
            )
            for row in case["rows"]
        ]
        score = circular.score_circular(rows)
        table = sorted(circular.report(score), key=lambda line: str(line["split"]))
        values = {
            "hit_by_index": {str(index): hit for index, hit in score.hits.items()},
            "vanilla_hit_first_rotation": [int(row.correct) for row in score.rows.values()],
        }
        yield from expected_of(case, "rows", values)
        yield "report", table, sorted(case["report"], key=lambda line: str(line["split"]))


def check_yes_no(data: Data) -> Iterator[Compared]:
    for case in data["cases"]:
        yield repr(case["prediction"]), extract_yes_no(case["prediction"]), case["extracted"]


CHECKS: dict[str, Check] = {
    "cmmmu": check_cmmmu,
    "gqa": check_gqa,
    "hallusionbench": check_hallusionbench,
    "mcq_can_infer": check_can_infer,
    "mmbench_circular": check_circular,
    "mme": check_mme,
    "mmmu_parse": check_mmmu,
    "mmstar": check_mmstar,
    "pope": check_pope,
    "scienceqa": check_scienceqa,
    "yes_no_vlmevalkit": check_yes_no,
}
