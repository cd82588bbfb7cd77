"""Each judged benchmark: its files, its queries, and its score of recorded replies.

The scripts here have the structure of the official ones, with other words.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hdvl import score
from hdvl.config import build, compose, to_plain
from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.judging.judge import Judge
from hdvl.evaluation.judging.judging import judge_answers
from hdvl.evaluation.scores import Scores
from hdvl.evaluation.summary import task_summary
from hdvl.evaluation.task import Task
from hdvl.files import read_json
from tests.evaluation.judging.fake_judge import fake_judge
from tests.evaluation.made_up import png, write, write_tsv

JUDGE = {"url": None, "model": None, "record": None}


def judged(
    name: str, root: Path, answers: Mapping[str, str], say: Mapping[str, str]
) -> tuple[Scores, list[dict[str, Any]]]:
    """Scores under the official protocol by a judge that says the value of the first key in its query."""
    config = to_plain(compose(f"task=[{name}]", config_name="evaluate"))["task"][name]
    task: Task = build({**config, "protocol": "official"})
    folder = DataFolder(root)
    samples = task.samples(folder)
    assert task.chosen.judge is not None and all(task.chosen.text(one) for one in samples)

    def reply(body: dict[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        return next(value for key, value in say.items() if key in asked)

    with fake_judge(reply) as server:
        with Judge(url=server.url, model="m", record=root / "judge.jsonl") as judge:
            verdicts = judge_answers(task.chosen.judge, judge, samples, answers, folder)
    scores = task.score(samples, answers, verdicts)
    summary = task_summary(samples, {}, scores)
    assert summary["uncertainty"]["low"] <= scores.value <= summary["uncertainty"]["high"]
    assert verdicts.summary()["unparsed"] == len(scores.unparsed)
    with pytest.raises(ValueError, match="needs the verdicts of a judge"):
        task.score(samples, answers)
    return scores, server.asked


def mmvp(root: Path) -> None:
    write(root / "MMVP/gpt_grader.py", MMVP_SCRIPT)
    rows = [f"{n},Which?,(a) Red (b) Blue,({'ab'[n % 2]})" for n in range(1, 7)]
    text = "\n".join(["lndex,Question,Options,Correct Answer", *rows]) + "\n"
    write(root / "MMVP/Questions.csv", text)


MMVP_SCRIPT = """
messages = [{'role': 'system', 'content': 'Be just.'}]
with open('a') as file:
    for line in file:
        question4gpt = f"Q {question} T {correct_answer} A {model_response}!"
"""


def test_mmvp(tmp_path: Path) -> None:
    mmvp(tmp_path)
    answers = {str(n): f"answer {n}" for n in range(1, 7)}
    say = {"answer 3": "no", "answer 5": "perhaps", "answer": "Yes"}
    scores, asked = judged("mmvp", tmp_path, answers, say)
    assert scores.value == 50 and scores.unparsed == ["5"]  # the third pair is left out
    assert scores.values["official"] == pytest.approx(100 / 3)
    texts = [one["messages"][1]["content"] for one in asked]
    assert "Q Which? (a) Red (b) Blue T (b) A answer 1!" in texts
    assert asked[0]["temperature"] == 0.2


def test_mm_vet(tmp_path: Path) -> None:
    write(tmp_path / "mm-vet/mm-vet_evaluator.py", 'prompt = """Grade 0.0 to 1.0."""\n')
    rows = {
        f"v1_{n}": {
            "imagename": f"v1_{n}.png",
            "question": "What?",
            "answer": "5<AND>6",
            "capability": kinds,
        }
        for n, kinds in enumerate((["ocr", "math"], ["ocr"], ["rec"]))
    }
    write(tmp_path / "mm-vet/mm-vet.json", rows)
    answers = {"v1_0": "five", "v1_1": "six", "v1_2": "seven"}
    say = {"five": "0.5 so", "six": "1.0", "(digit)": "?", "seven": "2.0"}
    scores, asked = judged("mm_vet", tmp_path, answers, say)
    assert scores.value == 75 and scores.values["official"] == 50 and scores.unparsed == ["v1_2"]
    assert scores.tables["capability"] == {"math": 50, "ocr": 75}
    assert scores.tables["capabilities"] == {"math,ocr": 50, "ocr": 100}
    first = asked[0]["messages"][-1]["content"]
    assert "\nWhat? | 5 <AND> 6 | " in first and first.endswith(" | ")
    heats = [one["temperature"] for one in asked if "seven" in one["messages"][-1]["content"]]
    assert heats == [0, 0, 0.5, 1, 1.5]


LLAVA_SCRIPT = """
messages = [{'role': 'system', 'content': 'Be just.'}]
content = (f'C {cap_str} Q {ques["text"]} '
           f'{role} 1 {ans1["text"]} {role} 2 {ans2["text"]} {prompt}')
"""


def test_llava_bench(tmp_path: Path) -> None:
    root = tmp_path / "llava-bench-in-the-wild"
    write(root / "eval_gpt_review_bench.py", LLAVA_SCRIPT)
    rule = {"role": "Helper", "prompt": "Two numbers."}
    write(root / "rule.json", {"llava_bench_conv": rule, "llava_bench_detail": rule})
    names = [("1.jpg", "conv"), ("1.jpg", "detail"), ("2.jpg", "conv")]
    rows = [
        {"question_id": n, "image": image, "category": kind, "text": "q"}
        for n, (image, kind) in enumerate(names)
    ]
    write(root / "questions.jsonl", rows)
    write(root / "context.jsonl", [{"image": f"{n}.jpg", "caption": ["a", "b"]} for n in (1, 2)])
    write(root / "answers_gpt4.jsonl", [{"question_id": n, "text": f"gold {n}"} for n in range(3)])
    say = {"mine 0": "8 4\nwell", "mine 1": "10, 5", "mine 2": "10 10"}
    answers = {str(n): f"mine {n}" for n in range(3)}
    scores, asked = judged("llava_bench", tmp_path, answers, {**say, "mine 1": "8,6\nwell"})
    assert scores.value == pytest.approx(76.9) and "official" not in scores.values
    assert scores.tables["category"] == {"conv": pytest.approx(77.8), "detail": 75}
    text = next(
        one["messages"][1]["content"] for one in asked if "gold 0" in one["messages"][1]["content"]
    )
    assert text == "C a\nb Q q Helper 1 gold 0 Helper 2 mine 0 Two numbers."
    (tmp_path / "judge.jsonl").unlink()
    scores, _ = judged("llava_bench", tmp_path, answers, say)  # "10, 5" has three parts
    assert scores.unparsed == ["1"] and scores.value == pytest.approx(77.8)
    assert scores.values["official"] == pytest.approx(100 * 4.333 / 5.667, abs=0.1)
    table = [
        {
            **{"index": n, "image": png(int(image[0])), "question": "q", "category": kind},
            **{"caption": "a\nb", "gpt4_ans": f"gold {n}"},
        }
        for n, (image, kind) in enumerate(names)
    ]
    write_tsv(tmp_path / "LLaVABench.tsv", table)
    for name in ("questions", "context", "answers_gpt4"):
        (root / f"{name}.jsonl").unlink()
    (tmp_path / "judge.jsonl").unlink()
    found, again = judged("llava_bench", tmp_path, answers, say)
    assert (found.value, found.values, found.tables) == (scores.value, scores.values, scores.tables)
    assert text in [one["messages"][1]["content"] for one in again]
    write_tsv(tmp_path / "LLaVABench.tsv", [{"index": 0, "question": "q", "category": "conv"}])
    with pytest.raises(ValueError, match="must have the column caption"):
        judged("llava_bench", tmp_path, answers, say)


def touchstone(root: Path) -> None:
    words = {
        "system_prompt": "Be just.",
        "prompt_template": "{human_annotation} {question} 1 {answer_1} 2 {answer_2} {prompt}",
        "defaults": {"prompt": "Two numbers."},
    }
    write(root / "touchstone/eval.py", f"import nothing\nprompt_dic = {words!r}\n")
    rows = [
        {
            "index": n,
            "image": png(n),
            "question": "q",
            "human_annotation": "an image",
            "gpt4_ha_answer": "gold",
            "category": "one,two" if n else "one",
            "task_name": "t",
        }
        for n in range(2)
    ]
    write_tsv(root / "touchstone/touchstone_20230831.tsv", rows)


def test_touchstone(tmp_path: Path) -> None:
    touchstone(tmp_path)
    say = {
        "1 gold 2 mine 0": "8 6",
        "1 mine 0 2 gold": "4 8",
        "1 gold 2 mine 1": "7 9",
        "1 mine": "?",
    }
    scores, asked = judged("touchstone", tmp_path, {"0": "mine 0", "1": "mine 1"}, say)
    assert scores.value == pytest.approx(100 * (6 + 4 + 9) / 3) and scores.unparsed == ["1"]
    assert scores.tables["category"] == {"one": pytest.approx(1900 / 3), "two": 900}
    assert scores.values["reference"] == pytest.approx(2300 / 3) and asked[0]["stop"] == ["\n"]


HALLUSION_SCRIPT = """
def evaluate_by_chatgpt(data, output_entry):
    prompt = 'Right? '
    prompt += sample['question']
    prompt += ' T ' + sample['gt_answer_details']
    prompt += sample[output_entry]
def check_same_by_chatgpt(data, output_entry):
    prompt = 'Alike? '
    prompt += sample[output_entry]
    prompt += response2
"""


def test_hallusionbench(tmp_path: Path) -> None:
    write(tmp_path / "hallusion_bench/utils.py", HALLUSION_SCRIPT)
    keys = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")
    cases = [("VS", "map", "1", "0", "0", "0"), ("VS", "map", "1", "1", "0", "1")]
    cases += [("VD", "video", "2", "0", "0", "1"), ("VD", "video", "2", "1", "0", "2")]
    more = {"gt_answer": "1", "gt_answer_details": "It is.", "filename": "a.png"}
    rows = [dict(zip(keys, one, strict=True)) | more | {"question": "Is it?"} for one in cases]
    write(tmp_path / "hallusion_bench/HallusionBench.json", rows)
    names = ["VS_map_1_0_0", "VS_map_1_1_0", "VD_video_2_0_0", "VD_video_2_1_0"]
    answers = {name: f"words {name}" for name in names}
    say = {
        "Alike?": "Same: both are correct",
        "T It is.words VS_map_1_0": "Unclear",
        "T It is.words VS_map_1_1": "I do not know",
        "T It is.words VD_video_2_0": "correct.",
        "T": "Incorrect",
    }
    scores, asked = judged("hallusionbench", tmp_path, answers, say)
    assert len(asked) == 8  # about each answer, and about its agreement with that to figure 0
    assert scores.value == 50 and scores.values["qAcc"] == 0  # unclear without a figure is right
    assert scores.values["fAcc"] == pytest.approx(100 / 3) and scores.unparsed == [names[1]]


def test_hrbench(tmp_path: Path) -> None:
    script = """
def build_prompt(line):
    prompt = ''
    prompt += f'{question}; '
    prompt += options_prompt
    content = f"{prompt}T {ground_truth} A {prediction}"
def pipeline_eval(prompts):
    inp = "Yes or no? {}".format(prompt)
"""
    write(tmp_path / "hrbench/hrbench.py", script)
    rows = [
        {
            "index": n,
            "image": png(n // 2),
            "question": "q",
            "A": "x",
            "B": "y",
            "answer": "AB"[n % 2],
            "category": "single" if n < 4 else "cross",
            "cycle_category": n % 2,
        }
        for n in range(6)
    ]
    write_tsv(tmp_path / "hr_bench_4k.tsv", rows)
    say = {"mine 0": "Yes, it is", "mine 1": "Hm", "mine 2": "no", "mine": "yes"}
    answers = {str(n): f"mine {n}" for n in range(6)}
    scores, asked = judged("hrbench_4k", tmp_path, answers, say)
    assert scores.value == pytest.approx(100 * (2 / 3 + 1) / 2) and scores.unparsed == ["1"]
    assert scores.values["official"] == pytest.approx(200 / 3)
    assert scores.tables["category"] == {"cross": 100, "single": pytest.approx(200 / 3)}
    texts = [one["messages"][0]["content"] for one in asked]
    assert "Yes or no? q; Options:\nA. x\nB. y\nT A. x A mine 0" in texts


def test_mathvista_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "mathvista/ext_ans.py", 'demo_prompt = """\nExamples.\n"""\n')
    problem = {"question_type": "free_form", "answer_type": "integer", "image": "a.png"}
    rows = {str(n): {**problem, "query": f"q {n}?", "answer": str(n)} for n in range(1, 4)}
    write(tmp_path / "mathvista/testmini.json", rows)
    given = {"1": {"response": "1"}, "2": {"response": "It is two"}, "3": {"response": "None"}}
    file = write(tmp_path / "p.json", given)

    def run(*more: str) -> None:
        words = [f"predictions={file}", f"data_dir={tmp_path}", f"out={tmp_path / 'out.json'}"]
        words += ["task=mathvista", "task.mathvista.protocol=official", *more]
        score.run(to_plain(compose(*words, config_name="score")))

    with pytest.raises(ValueError, match=r"needs a judge: give judge\.url"):
        run()
    record = tmp_path / "judge.jsonl"
    with fake_judge(lambda body: "2" if "two" in body["messages"][0]["content"] else "") as server:
        run(f"judge.url={server.url}", "judge.model=m", f"judge.record={record}")
        assert len(server.asked) == 2 and server.asked[0]["max_tokens"] == 1024
        assert server.asked[0]["messages"][0]["content"].startswith("Examples.\n\nq ")
        run(f"judge.url={server.url}", "judge.model=m", f"judge.record={record}")
        assert len(server.asked) == 2
    report = read_json(tmp_path / "out.json")
    assert report["score"] == pytest.approx(200 / 3) and report["unparsed"] == ["3"]
    assert report["judge"]["judge"] == "m" and report["judge"]["unparsed"] == 1
    assert "mathvista/ext_ans.py" in report["data"]
    (tmp_path / "out.json").unlink()
    run(f"judge.replay={record}")
    assert read_json(tmp_path / "out.json") == report
    assert "judge m" in capsys.readouterr().out
