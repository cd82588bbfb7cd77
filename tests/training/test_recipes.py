"""The recipes of the published systems: trained parameters at full size, and runs with tiny parts."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from hdvl.checkpoints import load_folder
from hdvl.config import CONF_DIR, compose, from_plain, to_plain
from hdvl.meta import on_meta
from hdvl.model import VLM
from hdvl.training.groups import parameter_groups
from hdvl.training.run import run
from hdvl.training.stages import split_stages
from hdvl.training.tuning import apply_tuning
from tests.training.runs import Feeder

# Qwen-VL's numbers, from the sizes of its published files; positions of the resampler are no parameter.
TRUNK, ENDS = 1_842_770_688, 16_785_408
POOL = 76_054_528 - 256 * 4096
QWEN_7B = 7_721_324_544
INTERN_VIT, INTERN_MLP, YI = 5_536_496_000, 143_170_560, 34_389_017_600
# The last block's share of the rate: what would follow it, a norm, has the whole, and there is none.
TOP = 0.95
# What the published LoRA of Qwen-VL holds, and two more matrices A a layer: queries, keys, values apart.
QWEN_LORA = 112_197_632 + 32 * 2 * 64 * 4096


def pool(width: int) -> int:
    """Parameters of Qwen-VL's cross-attention for a language model of ``width``."""
    norms_and_biases = 4 * width + 4 * width
    return (256 + 1664) * width + 4 * width**2 + norms_and_biases


def ends(width: int) -> int:
    """The norm and the matrix behind it."""
    return 2 * width + width**2


def qwen(width: int, layers: int, inner: int, rows: int) -> int:
    """Parameters of a first-generation Qwen."""
    block = 4 * width**2 + 3 * width + 3 * width * inner + 2 * width
    return 2 * rows * width + layers * block + width


def low_rank(rank: int, layers: int, *shapes: tuple[int, int]) -> int:
    """Parameters of adapters of ``rank`` on ``layers`` times matrices of (in, out)."""
    return layers * rank * sum(map(sum, shapes))


CAT = (8192, 24576)
# Experiment (and stage): what learns, as part -> (parameters, peak rate).
RECIPES: dict[str, dict[str, tuple[int, float]]] = {
    "xverse_v_align": {"bridge": (31_467_520, 1e-3)},
    "xverse_v_instruct": {"bridge": (31_467_520, 2e-5), "llm": (500_695_040, 2e-4)},
    "qwen_vl_pretrain": {"encoder": (TRUNK, TOP * 2e-4), "bridge": (POOL + ENDS, 2e-4)},
    "qwen_vl_multitask": {
        "encoder": (TRUNK, TOP * 5e-5),
        "bridge": (POOL + ENDS, 5e-5),
        "llm": (QWEN_7B, 5e-5),
    },
    "qwen_vl_instruct": {"bridge": (POOL + ENDS, 1e-5), "llm": (QWEN_7B, 1e-5)},
    "qwen_vl_finetune": {"bridge": (POOL, 1e-5), "llm": (QWEN_7B, 1e-5)},
    "qwen_vl_finetune_lora": {"llm": (QWEN_LORA, 1e-5)},
    "qwen_vl_finetune_qlora": {"llm": (QWEN_LORA, 1e-5)},
    "internvl_chat_v1_2_pretrain": {"encoder": (INTERN_VIT, 1e-5), "bridge": (INTERN_MLP, 1e-5)},
    "internvl_chat_v1_2_sft": {
        "encoder": (INTERN_VIT, 1e-5),
        "bridge": (INTERN_MLP, 1e-5),
        "llm": (YI, 1e-5),
    },
    "internvl_chat_v1_2_finetune": {"bridge": (INTERN_MLP, 1e-5), "llm": (YI, 1e-5)},
    "internvl_chat_v1_2_lora": {"llm": (122_880_000, 1e-5)},
    "belle_vl_align": {"bridge": (pool(5120), 2e-4)},
    "belle_vl_instruct": {
        "bridge": (pool(5120), 1e-5),
        "llm": (qwen(5120, 40, 13696, 152064), 1e-5),
    },
    "catvision_align": {"bridge": (pool(8192) + ends(8192), 1e-4)},
    **{
        f"catvision_instruct/{stage}": {
            "encoder": (low_rank(64, 48, (8192, 1664)), rate),
            "bridge": (pool(8192) + ends(8192), rate),
            "llm": (low_rank(64, 80, *[(8192, 8192)] * 4, *[CAT] * 3), rate),
        }
        for stage, rate in (("chat", 1e-5), ("documents", 1e-5), ("regions", 5e-6))
    },
}
# Tiny parts of the same classes: images of 28 px, two blocks, width 64.
LANGUAGE = [
    "llm.config.hidden_size=64",
    "llm.config.intermediate_size=128",
    "llm.config.num_hidden_layers=2",
    "llm.config.num_attention_heads=2",
    "llm.config.num_key_value_heads=2",
    "llm.config.vocab_size=400",
    "llm.tokenizer={_target_: hdvl.llms.build_tokenizer, vocab_size: 320}",
]
VIT = ["encoder.width=32", "encoder.depth=2", "encoder.heads=2", "encoder.mlp_width=48"]
SIDE = ["tiler.tile_size=28", "encoder.image_size=28"]
TINY = {
    "qwen": [
        *(*LANGUAGE, *VIT, *SIDE, "encoder.tile_size=28", "llm.config.head_dim=32"),
        *("bridge.num_queries=4", "bridge.heads=2"),
    ],
    "internvl": [*LANGUAGE, *VIT, *SIDE],
    "xverse": [
        *LANGUAGE,
        *("tiler.tile_size=28", "encoder.tile_size=28", "encoder.config.image_size=28"),
        *("encoder.config.hidden_size=32", "encoder.config.intermediate_size=48"),
        *("encoder.config.num_hidden_layers=2", "encoder.config.num_attention_heads=2"),
    ],
}
TINY |= {"belle": TINY["qwen"], "catvision": TINY["qwen"]}
SHORT = [
    "trainer=default",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.num_nodes=1",
    "trainer.accumulate_grad_batches=1",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "optimizer.common.warmup_steps=0",
    "data.num_workers=0",
]
NAMES = sorted({name.partition("/")[0] for name in RECIPES})


def stage_of(name: str) -> Any:
    """The config of one stage of an experiment."""
    experiment, _, wanted = name.partition("/")
    plain: Any = OmegaConf.to_container(compose(f"experiment={experiment}"), resolve=False)
    stages = split_stages(plain)
    names = [stage["name"] for stage in plain["stages"] or []]
    return from_plain(stages[names.index(wanted) if wanted else 0])


@cache
def published(node: str) -> VLM:
    """The model of a node at full size, on meta."""
    return on_meta(from_plain(yaml.safe_load(node)))


def test_every_recipe_is_tested() -> None:
    written = {path.stem for path in (CONF_DIR / "experiment").glob("*.yaml")}
    systems = ("xverse_v", "qwen_vl", "internvl", "belle_vl", "catvision")
    assert {name for name in written if name.startswith(systems)} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_trained_parameters_at_full_size(name: str) -> None:
    stage = stage_of(name)
    vlm = deepcopy(published(yaml.safe_dump(to_plain(stage.model))))
    tuning, optimizer = to_plain(stage.tuning), to_plain(stage.optimizer)
    if "qlora" in tuning.values():
        pytest.importorskip("bitsandbytes", reason="four-bit weights need bitsandbytes")
    with torch.device("meta"):
        apply_tuning(vlm, tuning)
    found: dict[str, tuple[int, float]] = {}
    for group in parameter_groups(vlm, optimizer["groups"], optimizer["common"]):
        count, rate = found.get(group["part"], (0, 0.0))
        size = sum(parameter.numel() for parameter in group["params"])
        found[group["part"]] = (count + size, max(rate, group["lr"]))
    assert found == RECIPES[name]


def shape_of(name: str) -> tuple[Any, ...]:
    """Batch of all devices, steps, length, tile size, betas, decay, warm-up, last rate."""
    stage = stage_of(name)
    trainer, common = stage.trainer, stage.optimizer.common
    devices = trainer.num_nodes * trainer.devices
    batch = stage.data.batch_size * trainer.accumulate_grad_batches * devices
    last = max(
        common.lr if own.lr is None else own.lr for own in stage.optimizer.groups.values()
    ) * float(common.min_lr_ratio)
    return (
        *(batch, trainer.max_steps, stage.data.max_length, stage.tiler.tile_size),
        *(list(stage.optimizer.factory.betas), common.weight_decay, common.warmup_steps, last),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "numbers"),  # samples a step, steps, ids, pixels, betas, decay, warm-up, last rate
    [
        ("qwen_vl_pretrain", (30720, 50000, 512, 224, [0.9, 0.98], 0.05, 500, 1e-6)),
        ("qwen_vl_multitask", (4096, 19000, 2048, 448, [0.9, 0.98], 0.05, 400, 1e-5)),
        ("qwen_vl_instruct", (128, 8000, 2048, 448, [0.9, 0.98], 0.05, 3000, 1e-6)),
        ("qwen_vl_finetune", (128, 1000, 2048, 448, [0.9, 0.95], 0.1, 0.01, 0)),
        ("qwen_vl_finetune_lora", (128, 1000, 2048, 448, [0.9, 0.95], 0.1, 0.01, 0)),
        ("internvl_chat_v1_2_pretrain", (8192, 4800, 2048, 448, [0.9, 0.999], 0.05, 100, 0)),
        ("internvl_chat_v1_2_sft", (512, 2477, 2048, 448, [0.9, 0.999], 0.05, 0.03, 0)),
        ("internvl_chat_v1_2_finetune", (128, 1000, 2048, 448, [0.9, 0.999], 0.05, 0.03, 0)),
        ("internvl_chat_v1_2_lora", (16, 1000, 2048, 448, [0.9, 0.999], 0.05, 0.03, 0)),
        ("catvision_align", (1024, 3000, 1024, 448, [0.9, 0.95], 0.0, 200, 0)),
        ("catvision_instruct/chat", (512, 3000, 2048, 448, [0.9, 0.95], 0.0, 0.01, 0)),
        ("catvision_instruct/documents", (1024, 3000, 2048, 448, [0.9, 0.96], 0.01, 0.01, 0)),
        ("catvision_instruct/regions", (4096, 3000, 2048, 448, [0.9, 0.96], 0.01, 0.01, 0)),
    ],
)
def test_published_numbers(name: str, numbers: tuple[Any, ...]) -> None:
    *found, last = shape_of(name)
    assert found == list(numbers[:-1])
    assert last == pytest.approx(numbers[-1])


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("qwen_vl_pretrain", 0.0),
        ("internvl_chat_v1_2_pretrain", 0.2),
        ("internvl_chat_v1_2_sft", 0.4),
        ("internvl_chat_v1_2_lora", 0.0),
    ],
)
def test_drop_path(name: str, rate: float) -> None:
    assert stage_of(name).encoder.drop_path == rate


@pytest.mark.slow
def test_lora_on_the_base_model_trains_its_tables_too() -> None:
    config = compose(
        "experiment=qwen_vl_finetune_lora",
        "model=qwen_vl",
        "tuning.also.llm=[embed_tokens, lm_head]",
        *TINY["qwen"],
    )
    vlm = on_meta(config.model)
    with torch.device("meta"):
        apply_tuning(vlm, to_plain(config.tuning))
    full = {n for n, p in vlm.named_parameters() if p.requires_grad and "lora_" not in n}
    assert full == {"llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_on_tiny_parts(name: str, tmp_path: Path) -> None:
    if name.endswith("_qlora"):
        pytest.importorskip("bitsandbytes", reason="four-bit weights need bitsandbytes")
    tiny = TINY[name.split("_")[0]]
    composed = compose(f"experiment={name}", *tiny, *SHORT, f"run_dir={tmp_path / 'run'}")
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    for stage in plain["stages"] or []:
        stage["trainer"] = {}
    if plain["data"]["train"].get("path") == "???":
        plain["data"]["train"]["path"] = "conversations.json"  # which the feeder does not read
    folder = run(plain, Feeder())
    vlm = load_folder(folder)
    assert type(vlm.encoder).__name__ in ("QwenViT", "InternViT", "TransformersEncoder")
    assert len(list((tmp_path / "run").rglob("finished"))) == len(plain["stages"] or [None])
