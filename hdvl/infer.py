"""``hdvl infer``: ask a model about images. Without a choice of parts, the shipped model answers."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdvl.command import command
from hdvl.composition import PART_GROUPS, changes_of, keys_of, tiler_follows
from hdvl.config import build, given_words
from hdvl.files import atomic_write

if TYPE_CHECKING:
    from hdvl.data.questions import Questions
    from hdvl.inference import Answer, Pipeline
    from hdvl.inference.answers_file import AnswersFile

WEIGHTED = ("encoder", "bridge", "merger", "llm", "model")
NO_SETTINGS = (
    *("inputs", "outputs", "image", "out", "stream", "device", "model", *PART_GROUPS),
    *("batch_size", "batch_tokens", "num_workers", "max_bad_rows"),
)
"""Keys that answers do not depend on, and those of the parts, which are written as they are used."""

RANDOM = """\
**************************************************************************
*  RANDOM WEIGHTS: this composition was never trained. Its answer shows  *
*  that the parts fit together, and means nothing.                       *
**************************************************************************"""


def is_composition(cfg: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether a new model is asked for: no checkpoint, or a part with weights and no checkpoint said."""
    if cfg["checkpoint"] is None:
        return True
    chosen = [key for key in keys if key in WEIGHTED]
    if "checkpoint" not in keys:
        return bool(chosen)
    if "model" in keys:
        raise ValueError(
            f"model= composes a new model, checkpoint={cfg['checkpoint']} has its own; leave one out"
        )
    return False


def pipeline_of(cfg: Mapping[str, Any], overrides: Sequence[str]) -> "Pipeline":
    """The checkpoint with its changes, or a composition with random weights, said aloud."""
    keys = keys_of(overrides)
    if not is_composition(cfg, keys):
        from hdvl.inference.load import load

        return load(
            cfg["checkpoint"],
            device=cfg["device"],
            dtype=cfg["dtype"],
            max_length=cfg["max_length"],
            allow=cfg.get("allow", ()),
            tiler_follows=tiler_follows(keys),
            **changes_of(cfg, keys),
        )
    import torch

    from hdvl.inference import Pipeline
    from hdvl.inference.load import as_dtype
    from hdvl.precision import converted

    print(RANDOM, file=sys.stderr)
    torch.manual_seed(cfg["seed"])
    vlm = converted(build(cfg["model"]), dtype=as_dtype(cfg["dtype"]), device=cfg["device"])
    return Pipeline(model=vlm, max_length=cfg["max_length"])


def generate_answer(pipe: "Pipeline", cfg: Mapping[str, Any]) -> "Answer":
    """Ask, and print the answer: at once, or as it is written."""
    import torch

    question = {name: cfg[name] for name in ("prompt", "system")}
    question["images"] = cfg["image"]
    torch.manual_seed(cfg["seed"])  # of the sampled answer
    if not cfg["stream"]:
        answer = pipe.chat(**question, **cfg["generation"])
        print(answer.text)
        return answer
    stream = pipe.stream(**question, **cfg["generation"])
    for piece in stream:
        print(piece, end="", flush=True)
    print(flush=True)
    return stream.answer


def report(answer: "Answer") -> str:
    """Boxes, images and numbers of an answer, a line each."""
    lines = [""]
    for found in answer.boxes:
        corners = ", ".join(f"{value:.0f}" for value in found.box)
        lines.append(f"box      image {found.image + 1}: {found.label} ({corners})")
    lines += [f"no box   {piece}" for piece in answer.malformed]
    for number, plan in enumerate(answer.plans, 1):
        thumbnail = " + thumbnail" if plan.thumbnail else ""
        size = plan.tile_size if plan.is_grid else "x".join(map(str, plan.sizes[0]))
        lines.append(
            f"image  {number}: {plan.width}x{plan.height} px, {plan.count} tiles of "
            f"{size} px ({plan.rows} x {plan.cols}{thumbnail})"
        )
    n = answer.numbers
    lines.append(
        f"numbers  {n.tiles} tiles, {n.visual_tokens} visual + "
        f"{n.prompt_tokens - n.visual_tokens} text tokens read, {n.new_tokens} written, "
        f"{n.seconds:.2f} s"
    )
    return "\n".join(lines)


def write_drawings(answer: "Answer", out: str) -> list[Path]:
    """The images with their boxes: ``out``, or ``out`` with a number where there are several."""
    from PIL import Image

    if not answer.images:
        raise ValueError(f"out={out} needs an image to draw on; give image=FILE")
    path = Path(out)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"out must end as images do, such as .png or .jpg, got {out}")
    several = len(answer.images) > 1
    names = [
        path.with_stem(f"{path.stem}-{number + 1}") if several else path
        for number in range(len(answer.images))
    ]
    for number, name in enumerate(names):
        with atomic_write(name) as part:
            answer.draw(number).save(part, kind)
    return names


def settings_of(cfg: Mapping[str, Any], overrides: Sequence[str], identity: str) -> dict[str, Any]:
    """What the answers to many questions depend on; an interrupted run goes on with the same alone.

    Args:
        cfg: the config of the command.
        overrides: what the command line says.
        identity: a text that differs if the questions have changed.
    """
    from hdvl.inference.load import find_folder

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
    import torch

    from hdvl.data.questions import PreparedQuestions
    from hdvl.data.threads import ThreadLoader
    from hdvl.inference.batch import answer_batches, answer_fields
    from hdvl.inference.progress import AskingProgress

    prepared = ThreadLoader(
        PreparedQuestions(questions, pipe.processor),
        [[number] for number in left],
        collate=lambda items: items[0],
        num_workers=cfg["num_workers"],
        prefetch_factor=cfg["batch_size"],
    )
    batching = {key: cfg[key] for key in ("batch_size", "batch_tokens")}
    total, bad = len(questions), list[str]()
    torch.manual_seed(cfg["seed"])  # of sampled answers
    with AskingProgress(total, done=total - len(left)) as progress:
        for row, answer in answer_batches(pipe, prepared, **batching, **cfg["generation"]):
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
    print(report(answer))
    if cfg["out"] is not None:
        for name in write_drawings(answer, cfg["out"]):
            print(f"drawn    {name}")


def main() -> None:
    """The command."""
    command("infer", lambda cfg: run(cfg, given_words()))


if __name__ == "__main__":
    main()
