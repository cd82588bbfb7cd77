"""The runner of ``hdvl evaluate`` against asking its questions one by one, with equal answers.

    OMP_NUM_THREADS=1 python tools/bench_evaluation.py [--checkpoint hdvl/small] [--images 50]
        [--questions 10] [--rounds 1] [--ways runner chat] [--start]

Generated pages with ``--questions`` questions each. Three ways, or those in ``--ways``, in one process, in
turn, after a question that is not counted:

* ``runner``: :func:`hdvl.evaluation.runner.answer_samples`, as ``hdvl evaluate`` calls it;
* ``one by one``: each question is read, tiled, encoded and answered by itself, and nothing is kept;
* ``chat``: each question by ``Pipeline.chat``, which keeps the visual tokens and prompts of earlier ones.

CPU seconds of all threads, so that other work on the machine matters little. The answers must be equal.
``--start`` prints instead where the CPU seconds from the start of ``hdvl evaluate`` to its first answer go.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 32
WAYS = ("runner", "one by one", "chat")


def made_samples(images: int, questions: int, folder: Path) -> list[Any]:
    """Samples about generated pages, whose PNG files are written to ``folder``."""
    from hdvl.data.synthetic import SyntheticDocuments
    from hdvl.evaluation.samples import Sample

    documents = SyntheticDocuments(seed=20_261_128, entries=(questions, questions + 6))
    found, number = list[Sample](), 0
    while len(found) < images * questions:
        document = documents[number]
        number += 1
        if len(document.fields) < questions:
            continue
        path = folder / f"{number}.png"
        document.image.save(path)
        for index, field in enumerate(document.fields[:questions]):
            found.append(
                Sample(
                    id=f"{number}/{index}",
                    question=field.question,
                    images=(path,),
                    answers=(field.value,),
                    group=str(number),
                )
            )
    return found


def runner(pipe: Any, samples: list[Any], folder: Path) -> dict[str, str]:
    """Answers of the evaluation's own loop, which also writes them to a file."""
    from hdvl.evaluation.runner import Ranks, answer_samples
    from hdvl.evaluation.store import AnswerStore
    from hdvl.evaluation.task import Protocol

    protocol = Protocol(
        prompt="{question}",
        score=None,  # type: ignore[arg-type]  # nothing is scored here
        generation={"max_new_tokens": MAX_NEW_TOKENS},
    )
    with AnswerStore(folder) as store:
        found = answer_samples(pipe, samples, protocol, store, identity="bench", ranks=Ranks())
    assert not found.failed, found.failed
    return {name: row["answer"] for name, row in found.rows.items()}


def by_chat(pipe: Any, samples: list[Any]) -> dict[str, str]:
    """Answers of one call of ``Pipeline.chat`` a question."""
    return {
        one.id: pipe.chat(
            one.question, images=[one.images[0].read_bytes()], max_new_tokens=MAX_NEW_TOKENS
        ).text
        for one in samples
    }


def fresh(pipe: Any, **engine: Any) -> Any:
    """A pipeline with the same model and a new engine, whose caches are empty."""
    from hdvl.inference import Pipeline

    return Pipeline(model=pipe.model, engine=engine)


def race(args: argparse.Namespace) -> None:
    """Print the CPU seconds of the ways, and their ratios to the runner, paired by round."""
    import hdvl

    pipe = hdvl.load(args.checkpoint)
    times: dict[str, list[float]] = {name: [] for name in args.ways}
    with tempfile.TemporaryDirectory() as place:
        samples = made_samples(args.images, args.questions, Path(place))
        print(f"{len(samples)} questions about {args.images} images", flush=True)
        by_chat(fresh(pipe), samples[:1])  # the first call of a process takes longer
        for number in range(args.rounds):
            ways: dict[str, Callable[[], dict[str, str]]] = {
                "runner": lambda: runner(fresh(pipe), samples, Path(place) / f"round{number}"),  # noqa: B023
                "one by one": lambda: by_chat(
                    fresh(pipe, image_cache_bytes=0, prefix_cache_bytes=0), samples
                ),
                "chat": lambda: by_chat(fresh(pipe), samples),
            }
            answers = dict[str, dict[str, str]]()
            turn = number % len(args.ways)
            order = [*args.ways[turn:], *args.ways[:turn]]
            for name in order:
                began = time.process_time()
                answers[name] = ways[name]()
                times[name].append(time.process_time() - began)
                print(f"round {number}  {name:<10}  {times[name][-1]:8.1f} CPU s", flush=True)
            for name in order:
                differ = sum(answers[name][one.id] != answers[order[0]][one.id] for one in samples)
                if differ:
                    sys.exit(f"{differ} of {len(samples)} answers of {name} and {order[0]} differ")
    right = sum(answers[args.ways[0]][one.id].strip() in one.answers for one in samples)
    print(f"answers equal; {right} of {len(samples)} right")
    for name, seconds in times.items():
        ratios = [one / base for one, base in zip(seconds, times[args.ways[0]], strict=True)]
        print(
            f"{name:<10}  {statistics.median(seconds):8.1f} CPU s  "
            f"{1000 * statistics.median(seconds) / len(samples):7.1f} ms a question  "
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}] x {args.ways[0]}"
        )


def start(args: argparse.Namespace) -> None:
    """Print the CPU seconds from the start of this process to the first answer, by what takes them."""
    marks = [("python and this file", time.process_time())]

    def mark(name: str) -> None:
        marks.append((name, time.process_time()))

    from hdvl.config import compose, to_plain
    from hdvl.evaluate import model_identity, pipeline_of

    words = ["task=docvqa", f"checkpoint={args.checkpoint}"]
    cfg = to_plain(compose(*words, config_name="evaluate"))
    mark("compose the config")
    import torch  # noqa: F401

    mark("import torch")
    import hdvl.inference

    mark("import hdvl.inference")
    import hdvl.evaluation.runner  # noqa: F401

    mark("import the runner")
    model_identity(cfg, words)
    mark("hash the checkpoint")
    pipe = pipeline_of(cfg, words)
    mark("load the checkpoint")
    import numpy as np
    from PIL import Image

    from hdvl.evaluation.samples import Sample, StoredImage

    page = np.random.default_rng(0).integers(0, 256, (672, 896, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(page).save(file, "PNG")
    sample = Sample(id="0", question="What is it?", images=(StoredImage("page", file.getvalue),))
    mark("make a page of 896 x 672")
    with tempfile.TemporaryDirectory() as place:
        runner(pipe, [sample], Path(place))
    mark("answer one question")
    before = 0.0
    for name, total in marks:
        print(f"{name:<26} {total - before:6.2f} CPU s")
        before = total
    print(f"{'all':<26} {before:6.2f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="hdvl/small")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--questions", type=int, default=10, help="questions about each image")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--start", action="store_true")
    args = parser.parse_args()
    if args.start:
        start(args)
    else:
        race(args)


if __name__ == "__main__":
    main()
