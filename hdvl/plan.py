"""``hdvl plan``: shapes, tokens, parameters, rates, memory and FLOPs, without weights or memory."""

import sys
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import InstantiationException

from hdvl.config import CONF_DIR, build, from_plain, to_plain

if TYPE_CHECKING:
    from hdvl.model import VLM

PARTS = ("encoder", "bridge", "merger", "llm")


def build_on_meta(model: Any) -> "VLM":
    """The model of a config node, without its numbers."""
    import torch

    from hdvl.training.estimate import without_weights

    with torch.device("meta"):
        vlm: VLM = build(from_plain(without_weights(to_plain(model))))
    return vlm


def shapes(vlm: "VLM") -> str:
    """One line a part: its class and what it takes and gives."""
    rows, cols = vlm.encoder.grid
    out_rows, out_cols = vlm.bridge.grid_for(vlm.encoder.grid)
    size = vlm.tiler.tile_size
    tokens, out_tokens = rows * cols, out_rows * out_cols
    texts = {
        "tiler": f"tiles of {size} x {size} px, at most {vlm.tiler.max_tiles}",
        "encoder": f"a tile -> {rows} x {cols} = {tokens} tokens of width {vlm.encoder.width}",
        "bridge": f"a tile's {tokens} x {vlm.encoder.width} -> {out_rows} x {out_cols} = "
        f"{out_tokens} tokens of width {vlm.llm.width}",
        "merger": "puts the tiles of a picture in order",
        "llm": f"width {vlm.llm.width}, {len(vlm.llm.tokenizer):,} ids",
        "template": f"picture slots are {vlm.template.image_token}",
    }
    return table([[part, type(getattr(vlm, part)).__name__, text] for part, text in texts.items()])


def parameters(vlm: "VLM", tuning: Any) -> str:
    """One line a part: how it trains, trainable and all parameters."""
    lines = [["part", "tuning", "parameters", "trainable"]]
    totals = [0, 0]
    for part in PARTS:
        module: Any = getattr(vlm, part)
        counts = [p.numel() for p in module.parameters()]
        trainable = [p.numel() for p in module.parameters() if p.requires_grad]
        lines.append([part, tuning[part], f"{sum(counts):,}", f"{sum(trainable):,}"])
        totals = [totals[0] + sum(counts), totals[1] + sum(trainable)]
    lines.append(["all", "", *(f"{total:,}" for total in totals)])
    return table(lines, right=(2, 3))


def pictures(vlm: "VLM", sizes: list[list[int]]) -> str:
    """Tiles and tokens of pictures of some sizes."""
    lines = [["picture", "tiles", "tokens"]]
    for width, height in sizes:
        plan = vlm.tiler.plan(width, height)
        tokens = vlm.merger.token_count(plan)
        lines.append([f"{width} x {height}", f"{plan.count:,}", f"{tokens:,}"])
    return table(lines, right=(1, 2))


def costs(vlm: "VLM", config: Any) -> str:
    """FLOPs of one example, and the memory of a step of ``data.batch_size`` examples."""
    from hdvl.training.estimate import measure, memory

    (width, height), text_tokens = config.example.picture, config.example.text_tokens
    cost = measure(vlm, vlm.tiler.plan(width, height), text_tokens=text_tokens)
    batch, precision = config.data.batch_size, str(config.trainer.precision)
    needed = memory(vlm, cost=cost, batch_size=batch, precision=precision)
    flops = [[f"forward, {part}", amount(n, "FLOP")] for part, n in cost.forward.items()]
    flops += [["forward and backward", amount(cost.step, "FLOP")]]
    room = [[name, amount(getattr(needed, name), "B")] for name in needed.__dataclass_fields__]
    return "\n".join(
        [
            f"one example: a picture of {width} x {height} and {text_tokens} tokens of text",
            table(flops, right=(1,)),
            "",
            f"memory of a step: batch_size {batch}, precision {precision}, AdamW, fused attention",
            table([*room, ["all", amount(needed.total, "B")]], right=(1,)),
        ]
    )


def table(rows: list[list[str]], right: tuple[int, ...] = ()) -> str:
    """Rows in columns, two spaces apart and two in."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def amount(number: float, unit: str) -> str:
    """A number with a metric prefix.

    >>> amount(1234567, "B")
    '1.23 MB'
    """
    prefixes = ("", "k", "M", "G", "T", "P")
    power = 0
    while number >= 1000 and power < len(prefixes) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {prefixes[power]}{unit}" if power else f"{number:g} {unit}"


def run(config: Any) -> None:
    """Print the plan of ``config``, stage after stage. Raises ``ValueError`` where it cannot work."""
    import torch
    from omegaconf import OmegaConf

    from hdvl.training.groups import group_table, parameter_groups
    from hdvl.training.schedule import check_warmup
    from hdvl.training.stages import split_stages
    from hdvl.training.tuning import apply_tuning

    plain: Any = OmegaConf.to_container(config, resolve=False)
    stages = [from_plain(stage) for stage in split_stages(plain)]
    for number, stage in enumerate(stages):
        vlm = build_on_meta(stage.model)
        tuning, optimizer = to_plain(stage.tuning), to_plain(stage.optimizer)
        with torch.device("meta"):
            apply_tuning(vlm, tuning)
        if not number:
            print(shapes(vlm), pictures(vlm, to_plain(stage.pictures)), sep="\n\n")
        if len(stages) > 1:
            print(f"\nstage {number + 1} of {len(stages)}: {config.stages[number].name}")
        groups = parameter_groups(vlm, optimizer["groups"], optimizer["common"])
        check_warmup(groups, stage.trainer.max_steps)
        print(f"\n{parameters(vlm, tuning)}")
        indented = "\n".join(f"  {line}" for line in group_table(groups).splitlines())
        steps = f"{stage.trainer.max_steps} steps, {optimizer['shape']}"
        print(f"\nlearning rates: {steps}\n{indented}\n\n{costs(vlm, stage)}")


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="plan")
def main(config: Any) -> None:
    """Print the plan; exit code 1 with the reason if the parts do not fit."""
    try:
        run(config)
    except InstantiationException as error:
        # Hydra wraps what a part said; the part said it better.
        sys.exit(f"hdvl plan: {error.__cause__ or error}")
    except (ValueError, OSError) as error:
        sys.exit(f"hdvl plan: {error}")


if __name__ == "__main__":
    main()
