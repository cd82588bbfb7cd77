"""The examples that help, ``hdvl show`` and the documents print for evaluation work as they are printed."""

import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from hdvl import cli
from hdvl.catalogue import choices, inherited, primary, settable
from hdvl.command import command
from hdvl.files import read_json
from hdvl.help import help_text
from tests.evaluation.judging.fake_judge import fake_judge
from tests.evaluation.made_up import docvqa, png, write, write_tsv
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "docs/evaluation.md", ROOT / "docs/suite.md"]
COMMANDS = ("evaluate", "score", "evaluate_diff")
TEN = [{"answer": "red", "answer_id": number} for number in range(1, 11)]


def lines_of(text: str) -> list[str]:
    """The command lines of hdvl in a text; those of torchrun as one process runs them."""
    whole = re.sub(r"\\\n\s*", "", text)
    found = [line.strip() for line in whole.splitlines()]
    found = [re.sub(r"^torchrun \S+ -m hdvl\.", "hdvl ", line) for line in found]
    kept = (
        line for line in found if re.match(r"hdvl (evaluate|score)\b.*=|hdvl evaluate diff ", line)
    )
    cut = (re.sub(r"\s+#.*$|  +\S.*$", "", line) for line in kept)
    return [line for line in cut if line != "hdvl evaluate diff"]


def blocks_of(document: Path) -> str:
    text = document.read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))


PRINTED = list(
    dict.fromkeys(
        [
            *(line for name in COMMANDS for line in lines_of(help_text(name))),
            *(line for document in DOCS for line in lines_of(blocks_of(document))),
        ]
    )
)
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "textvqa": [{"question_id": 1, "text": "red"}],
    "mmvp": [{"index": number, "answer": "(a)"} for number in (1, 2)],
}
MMVP = "lndex,Question,Options,Correct Answer\n1,Which?,(a) Red (b) Blue,(a)\n2,Which?,(a) Red (b) Blue,(b)\n"
GRADER = """
messages = [{'role': 'system', 'content': 'Be just.'}]
with open('a') as file:
    for line in file:
        question4gpt = f"Q {question} T {correct_answer} A {model_response}!"
"""


def benchmarks(root: Path) -> None:
    """Small files of the benchmarks that the examples name."""
    docvqa(root)
    for part in ("human", "augmented"):
        write(
            root / f"chartqa/test_{part}.json", [{"imgname": "a.png", "query": "q", "label": "1"}]
        )
        write(root / "chartqa/png/a.png", png())
    row = {"question_id": 1, "image_id": "i", "question": "q", "answers": ["red"] * 10}
    write(root / "textvqa/TextVQA_0.5.1_val.json", {"data": [row]})
    write(root / "textvqa/ocr_tokens.jsonl", [{"question_id": 1, "tokens": ["A", "B"]}])
    write(root / "textvqa/train_images/i.jpg", png())
    question = {"question_id": 7, "image_id": 42, "question": "What colour?"}
    note = {"question_id": 7, "question_type": "what", "answer_type": "other", "answers": TEN}
    write(root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [question]})
    write(root / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": [note]})
    write(root / "coco/val2014/COCO_val2014_000000000042.jpg", png())
    choice = {"question": "q", "A": "red", "B": "blue", "category": "c", "split": "dev"}
    write_tsv(root / "MMBench_DEV_EN.tsv", [{**choice, "index": 3, "answer": "A", "image": png()}])
    write(root / "mm-vet/mm-vet_evaluator.py", 'prompt = """Grade 0.0 to 1.0."""\n')
    asked = {"imagename": "v.png", "question": "What?", "answer": "5", "capability": ["ocr"]}
    write(root / "mm-vet/mm-vet.json", {"v1_0": asked})
    write(root / "mm-vet/images/v.png", png())
    write(root / "MMVP/gpt_grader.py", GRADER)
    write(root / "MMVP/Questions.csv", MMVP)


@pytest.fixture
def workplace(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name: the files, a model and predictions."""
    import openpyxl

    benchmarks(tmp_path / "benchmarks")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/docs").symlink_to(tiny_folder)
    predictions = [{"questionId": 100 + number, "answer": "word0"} for number in range(4)]
    write(tmp_path / "submission.json", predictions)
    book = openpyxl.Workbook()
    for row in (["index", "question", "prediction"], [3, "q", "A"]):
        book.active.append(row)
    book.save(tmp_path / "model_MMBench_DEV_EN.xlsx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_in(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of hdvl in this process."""
    name, rest = cli.split_command(words)
    monkeypatch.setattr(sys, "argv", ["hdvl", *cli.as_overrides(name, rest)])
    importlib.import_module(f"hdvl.{cli.module_of(name)}").main()


def smaller(words: list[str]) -> list[str]:
    """What makes a command quick: the tiny model on this processor, with short answers."""
    if words[0] != "evaluate" or words[1] == "diff":
        return words
    given = dict(word.split("=", 1) for word in words if "=" in word)
    names = given["task"].strip("[]").split(",")
    if names == ["suite"]:
        names = [name for name in choices("task") if name.startswith("suite_")]
    if names[0].startswith("suite_"):
        words = [*words, "limit=1", "tiler.max_tiles=2"]
    kept = [word for word in words if word != "device=cuda"]
    kept += [] if "checkpoint" in given else ["checkpoint=runs/docs"]
    for name in names:
        protocol = given.get(f"task.{name}.protocol", "official")
        kept.append(f"task.{name}.protocols.{protocol}.generation.max_new_tokens=2")
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("line", PRINTED)
def test_printed_commands_run(
    line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)[1:]
    task = next((word.partition("=")[2] for word in words if word.startswith("task=")), "")
    if task in ANSWERS:
        write(workplace / "answers.jsonl", ANSWERS[task])
    for run in [word for word in words if words[1] == "diff" and word.startswith("runs/")]:
        once = ["evaluate", "task=docvqa", "data_dir=benchmarks", f"outputs={run}"]
        type_in(smaller(once), monkeypatch)
    with fake_judge(lambda body: "0.5" if task == "mm_vet" else "yes") as judge:
        here = [word.replace("http://localhost:8001/v1", judge.url) for word in words]
        if any(word.startswith("judge.replay=") for word in here):
            asked = [word for word in here if not word.startswith("judge.replay=")]
            api = [f"judge.url={judge.url}", "judge.model=judge-model", "judge.record=judge.jsonl"]
            type_in([*asked, *api], monkeypatch)
        type_in(smaller(here), monkeypatch)
    out = next((word[4:] for word in words if word.startswith("out=")), None)
    said = capsys.readouterr().out
    assert out is None or (f"written  {out}" in said and (workplace / out).is_file())
    if words[0] == "evaluate" and words[1] != "diff":
        outputs = [word[8:] for word in words if word.startswith("outputs=")] or ["runs/evaluation"]
        assert all(
            "score" in one for one in read_json(Path(outputs[0], "report.json"))["tasks"].values()
        )


def test_examples_are_found() -> None:
    assert len(PRINTED) >= 13 and {line.split()[1] for line in PRINTED} == {"evaluate", "score"}


def commented() -> list[tuple[str, str, str]]:
    """Command, task and override of each example in a comment on a key: ``such as VALUE``."""
    entries = [(name, "", entry) for name in COMMANDS for entry in settable(primary(name).entries)]
    for task in choices("task"):
        entries += [("evaluate", task, entry) for entry in settable(inherited("task", task))]
    found = []
    for name, task, entry in entries:
        value = re.search(r"such as (\{.*?\}|\[.*?\]|[^\s,;]+)", entry.comment)
        if value and not entry.comment.startswith("packages"):
            found.append((name, task, f"{entry.key}={value[1]}"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task", "word"), commented())
def test_examples_of_comments_compose(
    name: str, task: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["hdvl", *([f"task={task}"] if task else []), word])
    command(name, found.append)
    node = found[0]
    for key in word.partition("=")[0].split("."):
        node = node[key]
    assert node not in (None, {}, [])


def test_examples_of_comments_are_found() -> None:
    keys = {word.partition("=")[0] for _, _, word in commented()}
    assert {"limit", "judge.url", "task.suite_reading.read.values"} <= keys


INLINE = sorted(
    {
        word
        for document in DOCS
        for word in re.findall(r"`'?(task\.\w+\.[\w.]+=[^`']+)'?`", document.read_text("utf-8"))
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("word", INLINE)
def test_values_in_the_documents_compose(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["hdvl", f"task={word.split('.')[1]}", word])
    command("evaluate", found.append)
    assert found


def test_values_in_the_documents_are_found() -> None:
    assert len(INLINE) >= 6


def test_the_documents_name_the_torch_that_is_tested() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    line = next(
        line for line in DOCS[0].read_text("utf-8").splitlines() if "pip install torch" in line
    )
    assert all(pin in pins for pin in re.findall(r"torch\w*==\S+", line))
