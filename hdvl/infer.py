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
"""Keys that answers do not depend on, and those of the parts, which are written as they are used."""


def generate_answer(pipe: "Pipeline", cfg: Mapping[str, Any]) -> "Answer":
    """Ask, and print the answer: at once, or as it is written."""

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
    """What the answers to many questions depend on; an interrupted run goes on with the same alone.

    Args:
        cfg: the config of the command.
        overrides: what the command line says.
        identity: a text that differs if the questions have changed.
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
    """Ask about every row of ``inputs`` and write the answers to ``outputs``.

    Raises:
        ValueError: more rows than ``max_bad_rows`` could not be asked; the others were answered.
    """
    for key in ("image", "out", "stream"):
        if cfg[key]:
            raise ValueError(
                f"{key} belongs to a single question, and inputs are many; leave it out"
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
        left = [number for number in range(total) if number not in file.answered]
        if len(left) < total:
            print(f"{total - len(left)} of {total} rows are answered already", file=sys.stderr)
        bad, numbers = list[str](), None
        if left:
            bad, numbers = ask_rows(pipeline_of(cfg, overrides), cfg, questions, left, file)
        file.finish(numbers)
    print(f"written  {cfg['outputs']}: {total} rows, {len(bad)} of them bad")
    if len(bad) > cfg["max_bad_rows"]:
        raise ValueError(
            f"{len(bad)} of {total} rows could not be asked, more than max_bad_rows="
            f"{cfg['max_bad_rows']}; the first: {bad[0]}. Mend them and run the same command again: it "
            "asks them alone"
        )


def ask_rows(
    pipe: "Pipeline",
    cfg: Mapping[str, Any],
    questions: "Questions",
    left: Sequence[int],
    file: "AnswersFile",
) -> tuple[list[str], dict[str, Any]]:
    """Ask the rows numbered ``left`` and append their answers to ``file``.

    Returns:
        What is wrong with each bad row, and the numbers of the run.
    """
    from hdvl.data.questions import PreparedQuestions
    from hdvl.data.threads import ThreadLoader
    from hdvl.inference.batch import answer_fields, answer_questions
    from hdvl.inference.progress import AskingProgress

    prepared = ThreadLoader(
        PreparedQuestions(questions, pipe.processor.limited(cfg["max_tiles"])),
        [[number] for number in left],
        collate=lambda items: items[0],
        num_workers=cfg["num_workers"],
    )
    asked = answer_questions(
        pipe,
        prepared,
        in_flight=2 * pipe.engine.counters.slots,
        seed=cfg["seed"],
        **cfg["generation"],
    )

    def known() -> float:
        counters = pipe.engine.counters
        return counters.picture_hits / max(1, counters.picture_hits + counters.picture_misses)

    total, bad = len(questions), list[str]()
    with AskingProgress(total, done=total - len(left), hits=known) as progress:
        for row, answer in asked:
            result = {"error": row.error} if answer is None else answer_fields(answer)
            file.append(row.number, {**row.fields, **result})
            progress.add(answer, row.error)
            bad += [row.error] if answer is None else []
        print(f"{len(left)} rows  {progress.text(left=False)}", file=sys.stderr)
        return bad, progress.numbers()


def run(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Load or compose, ask, print, draw."""
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
    """The command."""
    command("infer", lambda cfg: run(cfg, given_words()), checkpoint="checkpoint")


def end_process() -> None:
    """End this process without taking down its modules, which costs more than a second and gives nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
    if "hdvl.inference.pipeline" in sys.modules:  # a model was asked, not only --help or --cfg
        end_process()
