"""InternVL 2.5, 3 and 3.5 as OpenGVLab publishes them: the same weights as in transformers' class."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import hdvl
from hdvl.checkpoints.importers import detect, load_published
from hdvl.checkpoints.importers.internlm2 import internlm3_as_llama
from hdvl.encoders.intern_vit import published_key
from hdvl.llms import save_tokenizer
from hdvl.protocols import Message
from tests.design_equality import image
from tests.native_models import TEXT, TOWER, internvl
from tests.templates.toy_tokenizers import byte_level

MOE = {"head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DYNAMIC = {"rope_type": "dynamic", "factor": 6.0, "rope_theta": 5e5}
LLMS = {
    "Qwen2ForCausalLM": {"model_type": "qwen2"},
    "Qwen3ForCausalLM": {"model_type": "qwen3", "head_dim": 16},
    "Qwen3MoeForCausalLM": {"model_type": "qwen3_moe", **MOE},
    "GptOssForCausalLM": {"model_type": "gpt_oss", "head_dim": 12, "num_local_experts": 4},
    "InternLM3ForCausalLM": {"rope_parameters": DYNAMIC, "max_position_embeddings": 32},
}
PROJECTOR = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}


def own_layout(model: Any, architecture: str, folder: Path, **changes: Any) -> Path:
    """``model`` of transformers in OpenGVLab's layout."""
    folder.mkdir(exist_ok=True)
    vision, language = model.config.vision_config, model.config.text_config.to_dict()
    rope = dict(language.pop("rope_parameters"))
    scaling = None if rope["rope_type"] == "default" else rope
    told = {**language, "architectures": [architecture], "rope_theta": rope["rope_theta"]}
    config = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "vision_config": {
            **{"norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True},
            **{name: getattr(vision, name) for name in ("hidden_size", "num_hidden_layers")},
            **{name: getattr(vision, name) for name in ("num_attention_heads", "layer_norm_eps")},
            "intermediate_size": vision.intermediate_size,
            "image_size": vision.image_size[0],
            "patch_size": vision.patch_size[0],
        },
        "llm_config": {**told, "rope_scaling": scaling},
        "select_layer": -1,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "template": "internvl2_5",
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 6,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_renamed(model.state_dict()), folder / "model.safetensors")
    return folder


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found, fused = dict[str, Tensor](), dict[str, list[Tensor]]()
    for name, value in state.items():
        part, _, rest = name.removeprefix("model.").partition(".")
        if part == "vision_tower":
            key, third = published_key(rest)
            if third is None:
                found[f"vision_model.{key}"] = value
            else:  # in the order of the names: k, q, v or q, k, v
                fused.setdefault(f"vision_model.{key}", [value] * 3)[third] = value
        elif part == "multi_modal_projector":
            layer, _, kind = rest.partition(".")
            found[f"mlp1.{PROJECTOR[layer]}.{kind}"] = value
        elif part == "lm_head":
            found["language_model.lm_head.weight"] = value
        else:
            found |= _expert_by_expert(f"language_model.model.{rest}", value, state)
    return {**found, **{key: torch.cat(thirds) for key, thirds in fused.items()}}


def _expert_by_expert(key: str, value: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    stem, _, kind = key.rpartition(".")
    whole = any("sinks" in name for name in state)  # GPT-OSS keeps its experts in one tensor
    if whole or not stem.endswith(".experts"):
        return {key: value}
    if kind == "down_proj":
        return {f"{stem}.{i}.down_proj.weight": part.clone() for i, part in enumerate(value)}
    halves = {"gate_proj": 0, "up_proj": 1}
    return {
        f"{stem}.{i}.{name}.weight": part.chunk(2)[half].clone()
        for i, part in enumerate(value)
        for name, half in halves.items()
    }


def built(architecture: str = "Qwen2ForCausalLM", **text: Any) -> Any:
    tower = {"norm_type": "layer_norm", "use_qk_norm": False, "attention_bias": True}
    return internvl(text={**TEXT, **LLMS[architecture], **text}, tower={**TOWER, **tower})


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("architecture", LLMS)
def test_logits_are_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    model = built(architecture)
    folder = own_layout(model, architecture, tmp_path, image_context_id=110)
    assert detect(folder) == "internvl_chat"
    vlm = load_published(folder)
    tiles = [vlm.tiler(image(*size)) for size in [(90, 30), (28, 28), (3, 200)]]
    plans, pixels = [item.plan for item in tiles], torch.cat([item.pixels for item in tiles])
    assert [plan.count for plan in plans] == [4, 1, 7]
    ids = [3, 4]
    for plan in plans:
        ids += [110] * vlm.merger.token_count(plan) + [9]
    ids_ = torch.tensor([[*ids, 5]])
    encoder: Any = vlm.encoder
    with torch.no_grad():
        wanted = model(ids_, pixel_values=encoder.pixels(pixels, torch.float32)).logits
        found = vlm(ids_, pixels, plans).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_prompts_are_those_of_the_published_conversation(tmp_path: Path) -> None:
    words = byte_level(["<img>", "</img>", "<IMG_CONTEXT>"])
    model = built(vocab_size=len(words))
    folder = own_layout(model, "Qwen2ForCausalLM", tmp_path)
    save_tokenizer(words, folder)
    pipe = hdvl.load(folder)
    talk = [Message("user", "What?", images=(image(28, 28),))]
    found = pipe.processor(talk, add_generation_prompt=True).ids
    text = (
        "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
        "多模态大语言模型。<|im_end|>\n<|im_start|>user\n<img>"
        + "<IMG_CONTEXT>" * 4
        + "</img>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found.tolist() == words(text)["input_ids"]
    config = json.loads((folder / "config.json").read_text()) | {"system_message": "Hi."}
    (folder / "config.json").write_text(json.dumps(config))
    assert hdvl.load(folder).template.system == "Hi."


def test_internlm3_with_one_kind_of_bias() -> None:
    with pytest.raises(
        ValueError, match=r"qkv_bias equal to bias .* got qkv_bias=True and bias=False"
    ):
        internlm3_as_llama({"qkv_bias": True, "bias": False})
