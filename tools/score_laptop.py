"""Asks a model of conf/experiment/laptop.yaml about the held-out photographs, and again with others shown.

    python tools/score_laptop.py runs/laptop laptop

The second share is the control: every question is asked with the photograph of another kind of food, and its
answer is compared with the kind that belongs to the question. A model that looks at the picture must lose
there.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = tuple[str, str]
"""The file of a photograph and the kind of food on it."""


def read_rows(folder: Path) -> tuple[str, list[Row]]:
    """The question and the held-out rows of a folder of tools/fetch_laptop_parts.py."""
    rows = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))
    turns = [row["conversations"] for row in rows]
    question = str(turns[0][0]["value"]).removeprefix("<image>\n")
    found = [(row["image"], turn[1]["value"]) for row, turn in zip(rows, turns, strict=True)]
    return question, found


def swapped(rows: Sequence[Row]) -> list[Row]:
    """Each kind with the photograph of another kind, taken half a list further on."""
    found = []
    for place, (_, kind) in enumerate(rows):
        further = [rows[(place + len(rows) // 2 + step) % len(rows)] for step in range(len(rows))]
        other = next(name for name, shown in further if shown != kind)
        found.append((other, kind))
    return found


def ask(pipe: Any, folder: Path, question: str, rows: Sequence[Row]) -> list[str]:
    """The answers about the photographs of ``rows``."""
    conversations = []
    for name, _ in rows:
        image = str(folder / "pictures" / name)
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        conversations.append([{"role": "user", "content": content}])
    answers = pipe.generate(conversations, batch_size=8, max_new_tokens=8)
    return [answer.text.strip() for answer in answers]


def share(answers: Sequence[str], rows: Sequence[Row]) -> float:
    """The share of answers that name the kind."""
    return sum(a == kind for a, (_, kind) in zip(answers, rows, strict=True)) / len(rows)


def main() -> None:
    """Read the command line, and print both shares and how often each kind is named."""
    import hdvl

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    question, rows = read_rows(given.folder)
    pipe = hdvl.load(given.model)
    answers = ask(pipe, given.folder, question, rows)
    most = Counter(kind for _, kind in rows).most_common(1)[0]
    print(f"{len(rows)} held-out photographs; always saying {most[0]!r}: {most[1] / len(rows):.0%}")
    print(f"named the kind of food        {share(answers, rows):.0%}")
    others = swapped(rows)
    control = ask(pipe, given.folder, question, others)
    print(f"with another photograph shown {share(control, others):.0%}")
    for kind, count in Counter(kind for _, kind in rows).most_common():
        right = sum(a == kind == k for a, (_, k) in zip(answers, rows, strict=True))
        print(f"  {kind:16} {right:3} of {count}")


if __name__ == "__main__":
    main()
