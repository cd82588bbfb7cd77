"""Four-bit layers of gptqmodel instead of linear ones, and the error if it is not installed."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from hdvl.checkpoints.importers import load_published
from hdvl.llms import CausalLM, GPTQKernels
from tests.golden_files import reference_state, write_published
from tests.qwen_vl_gptq import TOLD, quantised
from tests.qwen_vl_reference import VISUAL, manifest, qwen, table

CONFIG = {
    "model_type": "qwen",
    "vocab_size": 64,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 128,
    "intermediate_size": 512,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 8192,
    "seq_length": 2048,
    "rotary_emb_base": 10000.0,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "visual": {
        "heads": 2,
        "image_size": 56,
        "image_start_id": 40,
        "layers": 1,
        "mlp_ratio": 1.0,
        "output_dim": 256,
        "patch_size": 14,
        "width": 16,
    },
}
QWEN2 = {
    "model_type": "qwen2",
    "vocab_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
}


def test_without_the_library_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    with pytest.raises(ValueError, match=r"need gptqmodel, .*; pip install gptqmodel, or leave"):
        CausalLM.from_config(config=QWEN2, quantisation=GPTQKernels())


def test_layers_of_broken_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPTQKernels, "_kernel", lambda self: None)
    with pytest.raises(ValueError, match="must be a multiple of group_size=128, got 48"):
        CausalLM.from_config(config=QWEN2, quantisation=GPTQKernels())


@pytest.mark.slow
def test_logits_are_those_of_the_unpacked_weights(
    tmp_path: Path, unchecked: Callable[[], AbstractContextManager[None]]
) -> None:
    """The logits differ by at most 3 % of their spread, because the layers compute in bfloat16."""
    pytest.importorskip("gptqmodel", reason="gptqmodel is not installed")
    state = reference_state(manifest(CONFIG))
    state[f"{VISUAL}attn_pool.pos_embed"] = table(16, 256)
    stored, meant = quantised(state)
    write_published(tmp_path, CONFIG | {"quantization_config": TOLD}, stored)
    kernels = {"_target_": "hdvl.llms.GPTQKernels", "device": "cpu", "backend": "gptq_torch"}
    vlm = load_published(
        tmp_path, overrides={"llm": {"quantisation": kernels}}, dtype=torch.bfloat16
    )
    layers = vlm.llm.model.model.layers
    assert {value.dtype for name, value in layers.state_dict().items() if "qweight" in name} == {
        torch.int32
    }
    ids = torch.randint(0, 40, (1, 20))
    with torch.inference_mode(), unchecked():
        ours = vlm.llm(vlm.llm.embed(ids))[0].float()
        again = vlm.llm(vlm.llm.embed(ids))[0].float()
    wanted = qwen(meant, meant["transformer.wte.weight"][ids[0]], CONFIG)
    assert torch.equal(ours, again)
    assert (ours - wanted).pow(2).mean().sqrt() < 0.03 * wanted.std()
