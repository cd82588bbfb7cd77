"""``hdvl infer``: ask a model about images. Without a choice of parts, the shipped model answers."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hdvl.chosen_model import is_composition, pipeline_of
from hdvl.command import command
from hdvl.composition import PART_GROUPS, changes_of, keys_of
from hdvl.config import given_words

if TYPE_CHECKING:
    from hdvl.data.questions import Questions
    from hdvl.inference import Answer, Pipeline
    from hdvl.inference.answers_file import AnswersFile

NO_SETTINGS = (
    *("inputs", "outputs", "image", "out", "stream", "device", "model", *PART_GROUPS),
    *("engine", "num_workers", "max_bad_rows"),
)
"""Keys that do not change the answers, and the groups of parts, which are recorded as ``model`` instead."""


def generate_answer(pipe: "Pipeline", cfg: Mapping[str, Any]) -> "Answer":
    """Ask one question and print the answer, with ``stream`` piece by piece as it is generated."""
    question = {name: cfg[name] for name in ("prompt", "system", "max_tiles")}
    question |= {"images": cfg["image"], "seed": cfg["seed"]}
    if not cfg["stream"]:
        answer = pipe.chat(**question, **cfg["generation"])
        print(answer.text)
        return answer
    stream = pipe.stream(**question, **cfg["generation"])
    for piece in stream:
        print(piece, end="", flush=True)
    print(flush=True)
    return stream.answer


def settings_of(cfg: Mapping[str, Any], overrides: Sequence[str], identity: str) -> dict[str, Any]:
    """Return everything that answers depend on; an interrupted run is continued only if it is unchanged.

    Args:
        cfg: the config of the command.
        overrides: the overrides of the command line.
        identity: a text that identifies the questions.
    """
    from hdvl.checkpoints.sources import find_folder

    keys = keys_of(overrides)
    parts = cfg["model"] if is_composition(cfg, keys) else changes_of(cfg, keys)
    folder = None if cfg["checkpoint"] is None else find_folder(cfg["checkpoint"])
    files = sorted(folder.rglob("*.safetensors")) if folder and folder.is_dir() else []
    return {
        **{key: value for key, value in cfg.items() if key not in NO_SETTINGS},
        "model": parts,
        "rows": identity,
        "weights": {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files},
    }


def run_many(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Answer the question of every row of ``inputs`` and write the answers to ``outputs``.

    Raises:
        ValueError: keys do not go together, or more than ``max_bad_rows`` rows are bad. The answers to the
            other rows have been written then.
    """
    for key in ("image", "out", "stream"):
        if cfg[key]:
            raise ValueError(
                f"{key} is an option for a single question and cannot be given with inputs; leave it out"
            )
    if not cfg["outputs"]:
        raise ValueError("outputs must be given with inputs, such as outputs=answers.jsonl")
    from hdvl.data.questions import open_questions
    from hdvl.inference.answers_file import AnswersFile

    questions = open_questions(
        cfg["inputs"],
        prompt=cfg["prompt"],
        system=cfg["system"],
        image_folder=cfg["image_folder"],
    )
    settings, total = settings_of(cfg, overrides, questions.identity()), len(questions)
    with AnswersFile(cfg["outputs"], settings=settings, total=total) as file:
        remaining = [number for number in range(total) if number not in file.answered]
        if len(remaining) < total:
            print(f"{total - len(remaining)} of {total} rows are answered already", file=sys.stderr)
        bad, statistics = list[str](), None
        if remaining:
            pipe = pipeline_of(cfg, overrides)
            bad, statistics = ask_rows(pipe, cfg, questions, remaining, file)
        file.finish(statistics)
    print(f"written  {cfg['outputs']}: {total} rows, {len(bad)} of them bad")
    if len(bad) > cfg["max_bad_rows"]:
        raise ValueError(
            f"{len(bad)} of {total} rows could not be asked, more than max_bad_rows="
            f"{cfg['max_bad_rows']}; the first: {bad[0]}. Correct them and run the same command again: "
            "only the bad rows are asked again"
        )


def ask_rows(
    pipe: "Pipeline",
    cfg: Mapping[str, Any],
    questions: "Questions",
    remaining: Sequence[int],
    file: "AnswersFile",
) -> tuple[list[str], dict[str, Any]]:
    """Answer the rows with the indices ``remaining`` and append the answers to ``file``.

    Returns:
        The errors of bad rows, and statistics of the run.
    """
    from hdvl.data.questions import PreparedQuestions
    from hdvl.data.threads import ThreadLoader
    from hdvl.inference.batch import answer_fields, answer_questions
    from hdvl.inference.progress import AskingProgress

    prepared = ThreadLoader(
        PreparedQuestions(questions, pipe.processor.limited(cfg["max_tiles"])),
        [[number] for number in remaining],
        collate=lambda items: items[0],
        num_workers=cfg["num_workers"],
    )
    answered = answer_questions(
        pipe,
        prepared,
        in_flight=2 * pipe.engine.counters.slots,
        seed=cfg["seed"],
        **cfg["generation"],
    )

    def hit_rate() -> float:
        counters = pipe.engine.counters
        return counters.picture_hits / max(1, counters.picture_hits + counters.picture_misses)

    total, bad = len(questions), list[str]()
    with AskingProgress(total, done=total - len(remaining), hits=hit_rate) as progress:
        for row, answer in answered:
            result = {"error": row.error} if answer is None else answer_fields(answer)
            file.append(row.number, {**row.fields, **result})
            progress.add(answer, row.error)
            bad += [row.error] if answer is None else []
        print(f"{len(remaining)} rows  {progress.text(left=False)}", file=sys.stderr)
        return bad, progress.numbers()


def run(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Load or compose a model, print its answers, and draw the boxes of a single answer."""
    if cfg["inputs"] is not None:
        run_many(cfg, overrides)
        return
    if not cfg["prompt"]:
        raise ValueError('prompt must be given, such as prompt="What is the total?"')
    answer = generate_answer(pipeline_of(cfg, overrides), cfg)
    from hdvl.inference.summary import report, write_drawings

    print(report(answer))
    if cfg["out"] is not None:
        for name in write_drawings(answer, cfg["out"]):
            print(f"drawn    {name}")


def main() -> None:
    """Run the command."""
    command("infer", lambda cfg: run(cfg, given_words()), checkpoint="checkpoint")


def end_process() -> None:
    """End the process without the interpreter's shutdown, which would take more than a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
    if "hdvl.inference.pipeline" in sys.modules:  # a model was loaded, unlike with --help or --cfg
        end_process()
