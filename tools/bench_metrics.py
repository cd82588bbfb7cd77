"""Time and memory of scoring predictions: VQA accuracy, ANLS and the caption tokenizer.

    python tools/bench_metrics.py [--predictions 1000000] [--captions 50000]

The predictions are generated one at a time, so that only the memory of the metrics counts. Half of the VQA
answers are common ones, as in VQA v2, and half are seen once. Printed are seconds, predictions a
second, the score, and by how much the memory of the process grew.
"""

import argparse
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence

from hdvl.evaluation.metrics.anls import anls
from hdvl.evaluation.metrics.ptb_tokenizer import tokenize
from hdvl.evaluation.metrics.vqa_accuracy import m4c_accuracy, vqa_accuracy

Row = tuple[Sequence[str], str]
WORDS = "red two black and white on the table, yes no 3.5 don't tennis racket (left) p.m.".split()
DOCUMENT = "Total amount of $ 1,234.50 due University of California 25/12/2018 Dr. Smith".split()


def vqa_rows(count: int) -> Iterator[Row]:
    """Ten answers of few distinct texts, and a prediction that is often one of them."""
    draw = random.Random(0)
    common = [" ".join(draw.choices(WORDS, k=draw.randint(1, 3))) for _ in range(3000)]
    for number in range(count):
        pool = draw.choices(common, k=3)
        if number % 2:
            pool[0] = f"{pool[0]} {number}"
        answers = draw.choices(pool, k=10)
        yield answers, draw.choice(pool)


def document_rows(count: int) -> Iterator[Row]:
    """One to three long answers, and a prediction with an error."""
    draw = random.Random(0)
    for number in range(count):
        text = " ".join(draw.choices(DOCUMENT, k=draw.randint(1, 8)))
        answers = [f"{text} {number}", text, text.upper()][: draw.randint(1, 3)]
        place = draw.randrange(len(text))
        yield answers, text[:place] + text[place + 1 :]


def captions(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS + DOCUMENT, k=12)) + "." for _ in range(count)]


def peak() -> float:
    """Largest resident memory of the process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, rows: Iterator[Row], metric: Callable[[Sequence[str], str], float]) -> None:
    """Score every row as it is made and print a line."""
    before, start = peak(), time.perf_counter()
    total, count = 0.0, 0
    for answers, prediction in rows:
        total += metric(answers, prediction)
        count += 1
    seconds = time.perf_counter() - start
    print(
        f"{name:<14} {count:>9} predictions {seconds:7.1f} s with their making "
        f"{count / seconds:>9.0f} /s  mean {total / count:.4f}  memory +{peak() - before:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=50_000)
    asked = parser.parse_args()
    measure("VQA accuracy", vqa_rows(asked.predictions), vqa_accuracy)
    measure("M4C accuracy", vqa_rows(asked.predictions), m4c_accuracy)
    measure("ANLS", document_rows(asked.predictions), anls)
    lines = captions(asked.captions)
    start = time.perf_counter()
    tokenize(lines)
    seconds = time.perf_counter() - start
    print(f"{'tokenizer':<14} {len(lines):>9} captions    {seconds:7.1f} s")


if __name__ == "__main__":
    main()
