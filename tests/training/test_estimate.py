"""FLOPs and memory of a step, checked against what can be worked out by hand."""

from typing import Any

import pytest
import torch

from hdvl.config import build, compose, from_plain
from hdvl.meta import on_meta
from hdvl.model import VLM
from hdvl.plain import without_weights
from hdvl.training.estimate import Cost, measure, memory
from hdvl.training.recompute import recompute
from hdvl.training.tuning import MODULES, apply_tuning

TILE, WIDTH, EMBEDDING, TEXT = 32, 16, 32, 10
MODEL: dict[str, Any] = {
    "_target_": "hdvl.model.VLM",
    "tiler": {
        "_target_": "hdvl.tilers.SlidingWindow",
        "tile_size": TILE,
        "stride": TILE,
        "multiple_of": TILE,
        "thumbnail": None,
    },
    "encoder": {
        "_target_": "hdvl.encoders.ConvStem",
        "tile_size": TILE,
        "stem_width": 8,
        "width": WIDTH,
        "stem_depth": 1,
        "depth": 1,
    },
    "bridge": {"_target_": "hdvl.bridges.MLP", "_partial_": True, "depth": 2},
    "merger": {"_target_": "hdvl.mergers.Concat", "_partial_": True},
    "llm": {
        "_target_": "hdvl.llms.CausalLM.from_config",
        "config": {
            "model_type": "llama",
            "hidden_size": EMBEDDING,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
        },
        "tokenizer": {"_target_": "hdvl.llms.build_tokenizer", "vocab_size": 320},
    },
    "template": {"_target_": "hdvl.templates.ChatML"},
}


def planned(**modes: str) -> tuple[VLM, Cost, int]:
    """A model on meta, its cost for two tiles, and the visual tokens."""
    with torch.device("meta"):
        vlm: VLM = build(from_plain(MODEL))
        vlm.requires_grad_(False)
        if modes:
            apply_tuning(vlm, {part: modes.get(part, "frozen") for part in MODULES})
    plan = vlm.tiler.plan(2 * TILE, TILE)
    return vlm, measure(vlm, plan, text_tokens=TEXT), vlm.merger.token_count(plan)


@pytest.fixture(scope="module")
def full() -> tuple[VLM, Cost, int]:
    return planned(**dict.fromkeys(MODULES, "full"))


def test_forward_flops_by_hand(full: tuple[VLM, Cost, int]) -> None:
    vlm, cost, visual = full
    assert cost.forward["bridge"] == 2 * visual * (WIDTH * EMBEDDING + EMBEDDING**2)
    length = visual + TEXT
    matrices = 4 * EMBEDDING**2 + 3 * EMBEDDING * 48
    products = 2 * length * (2 * matrices + EMBEDDING * vlm.llm.rows)
    attention = 2 * 2 * 2 * length**2 * EMBEDDING
    assert cost.forward["llm"] == products + attention


def test_a_full_step_costs_about_three_forwards(full: tuple[VLM, Cost, int]) -> None:
    cost = full[1]
    assert 2.8 < cost.step / sum(cost.forward.values()) < 3.2


def test_frozen_parts_cost_less(full: tuple[VLM, Cost, int]) -> None:
    _, bridge, _ = planned(bridge="full")
    assert bridge.forward == full[1].forward
    # Backward passes through the LLM once, for its inputs, and not at all into the encoder.
    assert sum(bridge.forward.values()) < bridge.step < full[1].step
    assert bridge.saved < full[1].saved


def test_without_training_no_activations_are_saved() -> None:
    _, cost, _ = planned()
    assert cost.saved == 0
    assert cost.step == sum(cost.forward.values())


def test_recomputed_blocks_save_less_and_cost_more() -> None:
    vlm = on_meta(compose("encoder=tiny", "llm=tiny").model)
    plan = vlm.tiler.plan(448, 448)
    plain = measure(vlm, plan, text_tokens=64)
    recompute(vlm, ["encoder", "llm"])
    again = measure(vlm, plan, text_tokens=64)
    inputs = 2 * 4 * plan.count * 49 * 48  # of two blocks of the encoder, at the least
    assert inputs < again.saved < 0.5 * plain.saved
    assert 1.15 < again.step / plain.step < 1.34


def test_memory(full: tuple[VLM, Cost, int]) -> None:
    vlm, cost, _ = full
    count = sum(p.numel() for p in vlm.parameters())
    needed = memory(vlm, saved=3 * cost.saved, precision="32-true")
    assert (needed.weights, needed.gradients, needed.optimizer) == (4 * count, 4 * count, 8 * count)
    assert needed.activations == 3 * cost.saved
    assert needed.total == 16 * count + 3 * cost.saved
    mixed = memory(vlm, saved=3 * cost.saved, precision="bf16-mixed")
    assert (mixed.weights, mixed.activations) == (4 * count, needed.activations // 2)
    half = memory(vlm, saved=cost.saved, precision="bf16-true")
    assert half.optimizer == 4 * count
    assert dict(half.rows()).keys() == {"weights", "gradients", "optimizer", "activations"}
    on_cpu = memory(vlm, saved=3 * cost.saved, precision="32-true", libraries=5)
    assert on_cpu.total == needed.total + 5 and on_cpu.rows()[-1] == ("libraries", 5)
    shared = memory(vlm, saved=0, precision="32-true", shards=4, gathered=7)
    assert (shared.weights, shared.gradients, shared.optimizer) == (count + 7, count, 2 * count)


def test_no_weights_are_read(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    node = {
        "encoder": {"_target_": "x.Encoder", "weights": "hub:a/b", "parts": [{"weights": "kept"}]},
        "llm": {"_target_": "hdvl.llms.CausalLM.from_pretrained", "path": str(tmp_path)},
    }
    plain = without_weights(node)
    assert plain["encoder"]["weights"] is None
    assert plain["encoder"]["parts"] == [{"weights": "kept"}]
    assert plain["llm"] == node["llm"]
    with torch.device("meta"):  # the folder holds none
        llm = build(plain["llm"])
    assert llm.width == 64 and all(parameter.is_meta for parameter in llm.parameters())
