"""``hdvl plan``: shapes, tokens, parameters, rates, memory and FLOPs, without weights or memory."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hdvl.command import command
from hdvl.composition import with_fine_tuning, with_init_from
from hdvl.config import given_values, resolve
from hdvl.tables import duration
from hdvl.tables import table as table

if TYPE_CHECKING:
    from hdvl.model import VLM

MODULES = ("encoder", "bridge", "merger", "llm")


def build_on_meta(model: Any) -> "VLM":
    """Build the model of a config node on the ``meta`` device, without memory for its weights."""
    from hdvl.meta import on_meta
    from hdvl.misfits import reported_together

    with reported_together(model):
        vlm: VLM = on_meta(model)
    return vlm


def shapes(vlm: "VLM") -> str:
    """Return a table with the class and the input and output sizes of each part."""
    rows, cols = vlm.encoder.grid
    out_rows, out_cols = vlm.bridge.grid_for(vlm.encoder.grid)
    size = vlm.tiler.tile_size
    tokens, out_tokens = rows * cols, out_rows * out_cols
    tokenizer = vlm.llm.tokenizer
    ids = "no tokenizer" if tokenizer is None else f"{len(tokenizer):,} ids"
    texts = {
        "tiler": f"tiles of {size} x {size} px, at most {vlm.tiler.max_tiles}",
        "encoder": f"a tile -> {rows} x {cols} = {tokens} tokens of width {vlm.encoder.width}",
        "bridge": f"a tile's {tokens} x {vlm.encoder.width} -> {out_rows} x {out_cols} = "
        f"{out_tokens} tokens of width {vlm.llm.width}",
        "merger": "puts the tiles of an image in order",
        "llm": f"width {vlm.llm.width}, {ids}",
        "template": f"image slots are {vlm.template.image_token}",
    }
    return table([[part, type(getattr(vlm, part)).__name__, text] for part, text in texts.items()])


def parameters(vlm: "VLM", tuning: Any) -> str:
    """Return a table with the tuning, the parameters and the trainable parameters of each part.

    The number of floating-point buffers that a checkpoint stores besides the parameters follows below.
    """
    lines = [["part", "tuning", "parameters", "trainable"]]
    totals = [0, 0]
    for part in MODULES:
        module: Any = getattr(vlm, part)
        counts = [p.numel() for p in module.parameters()]
        trainable = [p.numel() for p in module.parameters() if p.requires_grad]
        lines.append([part, tuning[part], f"{sum(counts):,}", f"{sum(trainable):,}"])
        totals = [totals[0] + sum(counts), totals[1] + sum(trainable)]
    lines.append(["all", "", *(f"{total:,}" for total in totals)])
    buffers = sum(value.numel() for value in stored_buffers(vlm).values())
    footnote = f"\n  with {buffers:,} values in fixed buffers: {totals[0] + buffers:,} stored"
    return table(lines, right=(2, 3)) + (footnote if buffers else "")


def stored_buffers(module: Any) -> dict[str, Any]:
    """Return the floating-point buffers that a checkpoint holds, such as the positions of a resampler."""
    parameters = {id(parameter) for parameter in module.parameters()}
    state = module.state_dict(keep_vars=True)
    return {
        name: value
        for name, value in state.items()
        if value.is_floating_point() and id(value) not in parameters
    }


def images(vlm: "VLM", sizes: list[list[int]]) -> str:
    """Return a table with the numbers of tiles and tokens of images of ``sizes`` = (width, height)."""
    lines = [["image", "tiles", "tokens"]]
    for width, height in sizes:
        plan = vlm.tiler.plan(width, height)
        tokens = vlm.merger.token_count(plan)
        lines.append([f"{width} x {height}", f"{plan.count:,}", f"{tokens:,}"])
    return table(lines, right=(1, 2))


def costs(vlm: "VLM", config: Mapping[str, Any]) -> str:
    """Return the FLOPs of one example, and the memory of a step of ``data.batch_size`` examples.

    Raises:
        ValueError: the example is longer than the context of the language model.
    """
    from hdvl.training.estimate import measure, memory

    (width, height), text_tokens = (config["example"][key] for key in ("image", "text_tokens"))
    plan = vlm.tiler.plan(width, height)
    length = vlm.merger.token_count(plan) + text_tokens
    if vlm.llm.context is not None and length > vlm.llm.context:
        raise ValueError(
            f"example must fit the context of the language model, {vlm.llm.context} ids, an image of "
            f"{width}x{height} and text_tokens={text_tokens} take {length}; change example, or choose "
            "an llm with a longer context"
        )
    cost = measure(vlm, plan, text_tokens=text_tokens)
    batch, precision = config["data"]["batch_size"], str(config["trainer"]["precision"])
    libraries = own_libraries(config)
    step_memory = memory(vlm, saved=cost.saved * batch, precision=precision, libraries=libraries)
    flops = [[f"forward, {part}", amount(n, "FLOP")] for part, n in cost.forward.items()]
    flops += [["forward and backward", amount(cost.step, "FLOP")]]
    items = [[name, amount(number, "B")] for name, number in step_memory.rows()]
    return "\n".join(
        [
            f"one example: an image of {width} x {height} and {text_tokens} tokens of text",
            table(flops, right=(1,)),
            "",
            f"memory of a step: batch_size {batch}, precision {precision}, AdamW, fused attention",
            table([*items, ["all", amount(step_memory.total, "B")]], right=(1,)),
        ]
    )


def own_libraries(config: Mapping[str, Any]) -> int:
    """Return the bytes of the libraries in a training on this machine's CPU, 0 for other devices."""
    from hdvl.training.machine import device_kind, library_bytes

    here = config["gpus"] == 1 and device_kind(str(config["trainer"]["accelerator"])) == "cpu"
    return library_bytes() if here else 0


def build_stage_data(vlm: "VLM", stage: dict[str, Any]) -> Any:
    """Build the data module of a stage, and replace lengths in epochs by numbers of steps.

    Returns ``None`` if the plan of the stage needs no data, or the model has no tokenizer.
    """
    from hdvl.data.build import build_data
    from hdvl.training.lengths import EPOCHS, set_lengths

    data = None
    needed = stage["survey"] != 0 or stage["trainer"].get(EPOCHS, -1) not in (None, -1)
    if needed and vlm.llm.tokenizer is not None:
        data = build_data(stage["data"], vlm, seed=stage["seed"])
    set_lengths(stage, data, ranks=stage["gpus"])
    return data


def data_costs(vlm: "VLM", data: Any, config: Mapping[str, Any]) -> str:
    """Return the sizes of the samples, and the steps, memory and time of an epoch on ``gpus`` devices.

    Raises:
        ValueError: more than ``data.max_bad`` of the samples would be skipped, a sample is larger than
            the packing's budget, or a device has too little memory.
    """
    from hdvl.data.survey import plan_batches, survey
    from hdvl.training.checks import precision_of
    from hdvl.training.cluster import Peak, estimate

    if data is None:
        return "data: not measured, the model has no tokenizer"
    node, trainer = config["data"], config["trainer"]
    trainer = {**trainer, "precision": precision_of(trainer)}
    found = survey(data.conversations, data.processor, most=config["survey"], seed=config["seed"])
    found.check(max_bad=node["max_bad"], max_length=node["max_length"])
    layout = plan_batches(
        found.sizes,
        batch_size=node["batch_size"],
        packing=data.packing,
        world=config["gpus"],
        accumulate=trainer["accumulate_grad_batches"],
    )
    peak = Peak(**config["peak"])
    estimated = estimate(
        vlm,
        layout,
        trainer=trainer,
        gpus=config["gpus"],
        peak=peak,
        libraries=own_libraries(config),
    )
    share = found.length / len(found.sizes)
    epoch = [
        ["steps an epoch", f"{estimated.steps * share:,.0f}"],
        ["tokens an epoch", amount(layout.tokens * share, "")],
        ["FLOPs an epoch", amount(estimated.flops * share, "")],
    ]
    devices = [[name, amount(number, unit)] for name, number, unit in estimated.rows()]
    return "\n".join(
        [
            f"data: {found.length:,} conversations, {len(found.sizes):,} of them measured",
            table([*found.rows(), *layout.rows(), *epoch]),
            "",
            accelerators(config["gpus"], estimated.strategy),
            table(devices, right=(1,)),
            *([time_here(vlm, layout, trainer, config, share)] if config["measure"] else []),
        ]
    )


def accelerators(gpus: int, strategy: str) -> str:
    """Return the heading of the estimates for accelerators, which need not be those of this machine."""
    if gpus == 1:
        return "on one GPU of the kind that peak describes (gpus=1):"
    return f"on each of {gpus} (gpus), {strategy}, of the kind that peak describes:"


def time_here(
    vlm: "VLM", layout: Any, trainer: Mapping[str, Any], config: Mapping[str, Any], share: float
) -> str:
    """Estimate the time of a step, an epoch and the training from a short measurement of this machine.

    ``share`` is the number of all conversations divided by that of the measured ones.
    """
    from dataclasses import replace

    from hdvl.training.cluster import Peak, estimate
    from hdvl.training.machine import measure_machine

    found = measure_machine(trainer["precision"], str(trainer["accelerator"]))
    peak = replace(Peak(**config["peak"]), flops=found.flops, memory=None)
    estimated = estimate(vlm, layout, trainer=trainer, gpus=config["gpus"], peak=peak)
    step = estimated.compute
    rows = [
        ["a step", duration_text(step)],
        ["an epoch", duration_text(step * estimated.steps * share)],
        [f"{trainer['max_steps']} steps", duration_text(step * trainer["max_steps"])],
    ]
    each = "" if config["gpus"] == 1 else f" {config['gpus']} of"
    return (
        f"\non{each} this machine ({found.device}; {amount(found.flops, 'FLOP/s')} measured, of which "
        f"training is assumed to reach {100 * peak.utilisation:g} %):\n{table(rows, right=(1,))}"
    )


def duration_text(seconds: float) -> str:
    """Format a duration: seconds below a minute, otherwise hours, minutes and seconds.

    >>> duration_text(0.125), duration_text(75)
    ('0.12 s', '1:15')
    """
    return f"{seconds:.2g} s" if seconds < 60 else duration(seconds)


def amount(number: float, unit: str) -> str:
    """Format a number with a metric prefix.

    >>> amount(1234567, "B")
    '1.23 MB'
    """
    prefixes = ("", "k", "M", "G", "T", "P")
    power = 0
    while number >= 1000 and power < len(prefixes) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {prefixes[power]}{unit}".rstrip()


def run(config: Mapping[str, Any]) -> None:
    """Print the plan of each stage of ``config``, whose interpolations are unresolved.

    Raises:
        ValueError: the parts, the data or the settings of a stage do not fit together.
    """
    from hdvl.training.checks import check_stage
    from hdvl.training.groups import group_table
    from hdvl.training.preflight import check_tuned, warn_of_untrained
    from hdvl.training.recompute import recompute
    from hdvl.training.stages import split_stages

    optional = ["data"] if config["survey"] == 0 else []
    stages = [resolve(stage, optional) for stage in split_stages(config)]
    warn_of_untrained(stages)
    for number, stage in enumerate(stages):
        vlm, tuning, optimizer = build_on_meta(stage["model"]), stage["tuning"], stage["optimizer"]
        check_stage(stage, gpus=stage["gpus"])
        data = build_stage_data(vlm, stage)
        groups = check_tuned(vlm, stage)
        recompute(vlm, (stage["callbacks"].get("recompute") or {}).get("parts", ()))
        if not number:
            print(shapes(vlm), images(vlm, stage["images"]), sep="\n\n")
        if len(stages) > 1:
            name = config["stages"][number]["name"]
            print(f"\nstage {number + 1} of {len(stages)}: {name}")
        print(f"\n{parameters(vlm, tuning)}")
        indented = "\n".join(f"  {line}" for line in group_table(groups).splitlines())
        steps = f"{stage['trainer']['max_steps']} steps, {optimizer['schedule']}"
        print(f"\nlearning rates: {steps}\n{indented}\n\n{costs(vlm, stage)}")
        if stage["survey"] != 0:
            print(f"\n{data_costs(vlm, data, stage)}")


def show(config: Mapping[str, Any]) -> None:
    """Print the plan, after checking that each override of the command line has an effect."""
    from hdvl.training.stages import check_effect

    given = given_values()
    config = with_fine_tuning(with_init_from(config, given), given)
    check_effect(config, given)
    run(config)


def main() -> None:
    """Run the command; exit code 1 with the reason if the parts do not fit."""
    command("plan", show, resolved=False)


if __name__ == "__main__":
    main()
