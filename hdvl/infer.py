"""``hdvl infer``: answers questions about images, by default with the shipped model."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hdvl.chosen_model import is_composition, pipeline_of
from hdvl.command import command
from hdvl.composition import PART_GROUPS, changes_of, keys_of
from hdvl.config import build, given_words

if TYPE_CHECKING:
    from hdvl.backends import Backend, Job
    from hdvl.inference import Answer, Pipeline
    from hdvl.inference.answers_file import AnswersFile

NO_SETTINGS = (
    *("inputs", "outputs", "image", "out", "attention", "stream", "device", "model", *PART_GROUPS),
    *("engine", "num_workers", "max_bad_rows"),
)
"""Keys that do not change the answers, and the groups of parts, which are recorded as ``model`` instead."""

LOCAL = "hdvl.backends.LocalBackend"
OF_MODEL = (
    "checkpoint",
    "model",
    "device",
    "dtype",
    "quantisation",
    "max_length",
    "allow",
    *PART_GROUPS,
)
"""Keys that have no effect where a server answers."""


def generate_answer(pipe: "Pipeline", cfg: Mapping[str, Any]) -> "Answer":
    """Ask one question and print the answer, with ``stream`` piece by piece as it is generated.

    Boxes are printed in pixels, and with ``stream`` as the model writes them.
    """
    names = ("prompt", "system", "max_tiles", "select", "select_tiles")
    question = {name: cfg[name] for name in names}
    question |= {"images": cfg["image"], "seed": cfg["seed"]}
    if not cfg["stream"]:
        answer = pipe.chat(**question, **cfg["generation"])
        print(answer.readable)
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
    for key in ("image", "out", "attention", "stream"):
        if cfg[key]:
            raise ValueError(
                f"{key} is an option for a single question and cannot be given with inputs; leave it out"
            )
    if not cfg["outputs"]:
        raise ValueError("outputs must be given with inputs, such as outputs=answers.jsonl")
    from hdvl.backends.base import Job, questions_of
    from hdvl.inference.answers_file import AnswersFile

    backend, questions = backend_of(cfg, overrides), questions_of(cfg)
    settings = settings_of(cfg, overrides, questions.identity()) | backend.identity()
    total = len(questions)
    with AnswersFile(cfg["outputs"], settings=settings, total=total) as file:
        remaining = [number for number in range(total) if number not in file.answered]
        if len(remaining) < total:
            print(f"{total - len(remaining)} of {total} rows are answered already", file=sys.stderr)
        bad, statistics = list[str](), None
        if remaining:
            job = Job(cfg, overrides, questions, remaining)
            bad, statistics = ask_rows(backend, job, file)
        file.finish(statistics)
    print(f"written  {cfg['outputs']}: {total} rows, {len(bad)} of them bad")
    if len(bad) > cfg["max_bad_rows"]:
        raise ValueError(
            f"{len(bad)} of {total} rows could not be asked, more than max_bad_rows="
            f"{cfg['max_bad_rows']}; the first: {bad[0]}. Correct them and run the same command again: "
            "only the bad rows are asked again"
        )


def ask_rows(
    backend: "Backend", job: "Job", file: "AnswersFile"
) -> tuple[list[str], dict[str, Any]]:
    """Append the rows of ``job``, as ``backend`` answers them, to ``file``.

    Returns:
        The errors of bad rows, and statistics of the run.
    """
    from hdvl.inference.progress import AskingProgress

    total, asked, bad = len(job.questions), len(job.remaining), list[str]()
    with AskingProgress(total, done=total - asked, hits=backend.hit_rate) as progress:
        for row in backend.rows(job):
            file.append(row.number, row.fields)
            progress.add(images=row.images, new_tokens=row.new_tokens, error=row.error)
            bad += [row.error] if row.error else []
        print(f"{asked} rows  {progress.text(left=False)}", file=sys.stderr)
        return bad, progress.numbers()


def backend_of(cfg: Mapping[str, Any], overrides: Sequence[str]) -> "Backend":
    """The backend that ``engine`` names.

    Raises:
        ValueError: it has a model of its own, and the command line chooses another.
    """
    backend: Backend = build(cfg["engine"])
    if not backend.runs_model:
        for key in keys_of(overrides):
            if key.split(".")[0] in OF_MODEL:
                raise ValueError(
                    f"{key} changes the model of engine=local and engine=ray, the server of this engine has "
                    "its own; leave it out"
                )
    return backend


def run(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Load or compose a model, print its answers, and draw the boxes of a single answer."""
    if cfg["inputs"] is not None:
        run_many(cfg, overrides)
        return
    if not cfg["prompt"]:
        raise ValueError('prompt must be given, such as prompt="What is the total?"')
    if cfg["engine"]["_target_"] != LOCAL:
        raise ValueError(
            "a single question is answered by engine=local; other engines answer many: give inputs=FILE "
            "outputs=answers.jsonl, where FILE may be one image"
        )
    if cfg["attention"] is not None and cfg["select"] is not None:
        raise ValueError(
            "attention shows what an answer attends to in all tiles, and select leaves tiles out; leave one "
            "of them out"
        )
    check_images(cfg["image"])
    pipe = pipeline_of(cfg, overrides)
    if cfg["attention"] is not None:
        from hdvl.inference.attention import check_attention

        check_attention(pipe.model)
    answer = generate_answer(pipe, cfg)
    from hdvl.inference.summary import report, write_drawings

    print(report(answer))
    if cfg["out"] is not None:
        for name in write_drawings(answer, cfg["out"]):
            print(f"drawn    {name}")
    if cfg["attention"] is not None:
        draw_attention(pipe, answer, cfg)


def check_images(images: str | Sequence[str] | None) -> None:
    """Raise a ValueError if a file is no image, before a model is loaded."""
    from hdvl.images.reading import open_image

    for image in [images] if isinstance(images, str) else images or ():
        open_image(image, max_pixels=sys.maxsize)  # the tiler has a limit of its own


def draw_attention(pipe: "Pipeline", answer: "Answer", cfg: Mapping[str, Any]) -> None:
    """Write what the answer looked at in each image to ``attention``, and print a line an image."""
    from hdvl.inference.summary import attention_line, write_images

    maps = pipe.attention(answer.history[:-1], answer=answer.text, max_tiles=cfg["max_tiles"])
    for number, found in enumerate(maps, 1):
        print(attention_line(number, found))
    for name in write_images("attention", cfg["attention"], [found.draw for found in maps]):
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
