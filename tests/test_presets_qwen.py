"""Presets of Qwen-VL's layout at full size, on meta: parameters, keys and bytes as published."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from hdvl.checkpoints.importers import IMPORTERS, mapping
from hdvl.checkpoints.importers.published import Published, Stored, _OpenFiles
from hdvl.config import compose
from hdvl.model import VLM
from hdvl.plan import build_on_meta, parameters, stored_buffers
from tests.qwen_vl_gptq import TOLD, int4_manifest
from tests.qwen_vl_reference import manifest

VISUAL = {
    "heads": 16,
    "image_size": 448,
    "image_start_id": 151857,
    "layers": 48,
    "mlp_ratio": 4.9231,
    "output_dim": 4096,
    "patch_size": 14,
    "width": 1664,
}
QWEN_7B: dict[str, Any] = {
    "model_type": "qwen",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "intermediate_size": 22016,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 8192,
    "seq_length": 2048,
    "rotary_emb_base": 10000,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "visual": VISUAL,
}
QWEN_14B = QWEN_7B | {
    "vocab_size": 152064,
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "intermediate_size": 27392,
    "visual": VISUAL | {"output_dim": 5120},
}
QWEN_72B = QWEN_7B | {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "intermediate_size": 49152,
    "max_position_embeddings": 32768,
    "seq_length": 32768,
    "rotary_emb_base": 1000000,
    "use_dynamic_ntk": False,
    "use_logn_attn": False,
    "visual": VISUAL | {"output_dim": 8192},
}
TRUNK = 1_842_770_688
# preset: (config.json, tensors, encoder, bridge's attn_pool, ln_post and proj, llm)
SYSTEMS = {
    "qwen_vl": (QWEN_7B, 853, 76_054_528, 16_785_408, 7_721_324_544),
    "belle_vl": (QWEN_14B, 917, 116_039_680, 26_224_640, 14_167_290_880),
    "catvision": (QWEN_72B, 1237, 286_326_784, 67_125_248, 72_287_920_128),
}

built = cache(lambda name: build_on_meta(compose(f"model={name}").model))


def stored(vlm: VLM, part: str) -> int:
    return sum(value.numel() for value in getattr(vlm, part).state_dict().values())


def as_stored(shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> Published:
    """A checkpoint of these shapes that nobody reads."""
    opener, file = _OpenFiles(), Path("model.safetensors")
    return Published({key: Stored(*kind, file, key, opener) for key, kind in shapes.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_parameters_and_keys_are_the_published_ones(name: str, tmp_path: Path) -> None:
    """The model of the preset has the sizes of the published folder, and exactly its keys."""
    config, tensors, pool, behind, llm = SYSTEMS[name]
    vlm = built(name)
    assert (stored(vlm, "encoder"), stored(vlm, "llm")) == (TRUNK, llm)
    assert stored(vlm, "bridge") == pool + behind
    shapes = manifest(config)
    assert len(shapes) == tensors
    (tmp_path / "config.json").write_text(json.dumps(config))
    published = as_stored({key: (shape, torch.bfloat16) for key, shape in shapes.items()})
    importer = IMPORTERS[name]
    node = importer.node(tmp_path, config, published)
    plain = importer.preset_node()
    assert node["llm"] | {"tokenizer": None} == plain["llm"]
    assert {key for key in node if node[key] != plain[key]} == {"image_token_id"}
    assert node["image_token_id"] == 151859
    table = importer.mapping(list(mapping.targets_of(vlm)), node, published)
    mapping.check(table, published, vlm, importer.ignorable(node))


@pytest.mark.slow
def test_qwen_vl_as_a_whole() -> None:
    vlm = built("qwen_vl")
    assert sum(stored(vlm, part) for part in ("encoder", "bridge", "llm")) == 9_656_935_168
    assert {name: value.numel() for name, value in stored_buffers(vlm).items()} == {
        "bridge.pos_embed": 256 * 4096
    }
    tuning = dict.fromkeys(("encoder", "bridge", "merger", "llm"), "full")
    said = parameters(vlm, tuning)
    assert "with 1,048,576 values in fixed buffers: 9,656,935,168 stored" in said
    assert vlm.merger.token_count(vlm.tiler.plan(1024, 768)) == 256
    assert (vlm.encoder.grid, vlm.image_token_id) == ((32, 32), -1)


def test_int4_is_as_large_as_published() -> None:
    shapes = int4_manifest(QWEN_7B)
    assert len(shapes) == 1461
    sizes = [torch.Size(shape).numel() * dtype.itemsize for shape, dtype in shapes.values()]
    assert sum(sizes) == 9_731_786_240


@pytest.mark.slow
def test_int4_fits_layer_by_layer(tmp_path: Path) -> None:
    """Two layers at full width, every key of them: the others are the same."""
    config = QWEN_7B | {"num_hidden_layers": 2, "visual": VISUAL | {"layers": 1}}
    published = as_stored(int4_manifest(config))
    importer = IMPORTERS["qwen_vl"]
    node = importer.node(tmp_path, config | {"quantization_config": TOLD}, published)
    layers = ("llm.config.num_hidden_layers=2", "encoder.depth=1")
    vlm = build_on_meta(compose("model=qwen_vl_chat_int4", *layers).model)
    table = importer.mapping(list(mapping.targets_of(vlm)), node, published)
    mapping.check(table, published, vlm, importer.ignorable(node))
    assert published.common_dtype() == torch.float16


@pytest.mark.slow
def test_presets_differ_only_where_the_systems_differ() -> None:
    """The chat models have the sizes of the base model."""
    nodes = {
        name: compose(f"model={name}").model
        for name in ("qwen_vl", "qwen_vl_chat", "qwen_vl_chat_int4")
    }
    base, chat, int4 = nodes.values()
    assert {key for key in int4 if int4[key] != chat[key]} == {"llm"}
    assert set(int4.llm) - set(chat.llm) == {"quantisation"}
    assert {key for key in base if base[key] != chat[key]} == {"llm", "template"}
    assert base.llm.config == chat.llm.config
