"""``hdvl infer``: ask a model about images. Without a choice of parts, the shipped model answers."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdvl.command import command
from hdvl.composition import changes_of, keys_of, tiler_follows
from hdvl.config import build, given_words
from hdvl.files import atomic_write

if TYPE_CHECKING:
    from hdvl.inference import Answer, Pipeline

WEIGHTED = ("encoder", "bridge", "merger", "llm", "model")
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


def run(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Load or compose, ask, print, draw."""
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
