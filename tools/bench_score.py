"""Time and memory of ``hdvl score`` for many predictions: VQA accuracy, ANLS and GQA through the command.

    python tools/bench_score.py [--predictions 1000000] [--task vqav2 docvqa gqa] [--folder DIR]

Official files of made-up questions and a file of predictions are written to a temporary folder (or DIR, which
is kept), and scored by the command in a process of its own. Printed are its seconds, the seconds that all of
its processes computed, and the largest memory of one of them.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench_metrics import document_rows, vqa_rows


def write_items(path: Path, key: str, items: Iterator[Any]) -> None:
    """A JSON file with a list under ``key``, or a list alone if it is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"{key}": [' if key else "[")
        for number, item in enumerate(items):
            file.write(("," if number else "") + json.dumps(item))
        file.write("]}" if key else "]")


def write_vqav2(folder: Path, count: int) -> Path:
    """Questions, annotations and predictions of VQA v2."""
    stem = folder / "vqav2"
    images = 3  # questions about each
    write_items(
        stem / "v2_OpenEnded_mscoco_val2014_questions.json",
        "questions",
        (
            {"image_id": n // images, "question": "What is on the table?", "question_id": n}
            for n in range(count)
        ),
    )

    def note(number: int, answers: Sequence[str]) -> dict[str, Any]:
        given = [
            {"answer": text, "answer_confidence": "yes", "answer_id": n}
            for n, text in enumerate(answers)
        ]
        kinds = {"question_type": "what is", "answer_type": "other"}
        return {**kinds, "answers": given, "image_id": number // images, "question_id": number}

    rows = enumerate(vqa_rows(count))
    notes = (note(number, answers) for number, (answers, _) in rows)
    write_items(stem / "v2_mscoco_val2014_annotations.json", "annotations", notes)
    given = enumerate(vqa_rows(count))
    answers = ({"question_id": number, "answer": text} for number, (_, text) in given)
    path = folder / "vqav2_predictions.json"
    write_items(path, "", answers)
    return path


def write_docvqa(folder: Path, count: int) -> Path:
    """Questions and predictions of DocVQA; the predictions are in the opposite order."""
    rows = (
        {
            "questionId": number,
            "question": "What is the total?",
            "image": f"documents/{number // 4}.png",
            "answers": answers,
        }
        for number, (answers, _) in enumerate(document_rows(count))
    )
    write_items(folder / "docvqa/val_v1.0.json", "data", rows)
    texts = [text for _, text in document_rows(count)]
    given = ({"questionId": n, "answer": texts[n]} for n in reversed(range(count)))
    path = folder / "docvqa_predictions.json"
    write_items(path, "", given)
    return path


def gqa_question(number: int, draw: random.Random) -> dict[str, Any]:
    """A question with the fields of the official file, some 800 characters of JSON."""
    structural = draw.choice(["query", "verify", "choose", "logical", "compare"])
    words = ("red", "blue", "left", "dog") if structural == "query" else ("yes", "no")
    steps = [
        {"operation": operation, "argument": f"thing ({number % 1000})", "dependencies": [place]}
        for place, operation in enumerate(draw.choices(["select", "relate", "query: name"], k=3))
    ]
    near = [
        str(draw.randrange(max(0, number - 20), number + 20)) for _ in range(draw.randint(0, 6))
    ]
    return {
        "imageId": str(number // 10),
        "question": "What color is the thing to the left of the other thing?",
        "answer": draw.choice(words),
        "fullAnswer": "The thing to the left of the other thing is red.",
        "isBalanced": True,
        "types": {
            "structural": structural,
            "semantic": draw.choice(["attr", "rel"]),
            "detailed": "d",
        },
        "groups": {"global": draw.choice(["color", "place", None]), "local": f"{number % 5000}-x"},
        "semantic": steps,
        "semanticStr": "select: thing (1)->relate: thing,left,s (2)->query: name [2]",
        "entailed": near,
        "equivalent": [str(number)],
    }


def write_gqa(folder: Path, count: int) -> Path:
    """Questions of GQA, each of which entails up to six others, and predictions in the opposite order."""
    path = folder / "gqa/testdev_balanced_questions.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(("," if number else "{") + f'"{number}": ')
            file.write(json.dumps(gqa_question(number, draw)))
        file.write("}")
    said = ("yes", "no", "red", "blue", "a dog")
    given = ({"questionId": str(n), "prediction": said[n % 5]} for n in reversed(range(count)))
    predictions = folder / "gqa_predictions.json"
    write_items(predictions, "", given)
    return predictions


WRITERS = {"vqav2": write_vqav2, "docvqa": write_docvqa, "gqa": write_gqa}


def measure(task: str, folder: Path, predictions: Path, count: int) -> None:
    """Run the command and print a line."""
    words = [f"task={task}", f"predictions={predictions}", f"data_dir={folder}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-m", "hdvl.score", *words, f"out={folder / 'out.json'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = list(islice(done.stdout.splitlines(), 2))
    print(
        f"{task:<8} {count:>9} predictions {seconds:7.1f} s, {computed:7.1f} s computed, "
        f"largest process {after.ru_maxrss / 1024:.0f} MiB; {'; '.join(lines)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--task", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        for task in asked.task:
            predictions = WRITERS[task](folder, asked.predictions)
            measure(task, folder, predictions, asked.predictions)


if __name__ == "__main__":
    main()
