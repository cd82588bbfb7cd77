"""InternVL-Chat folders: published outputs, other sizes, LoRA, and refused folders."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.importers import convert, detect, load_published
from hdvl.model import VLM
from tests.golden_files import golden, make_image, reference_state, write_published
from tests.internvl_reference import chat

PAIRS = ["internvl_chat_v1_2", "internvl_dynamic_v2"]


def published_folder(folder: Path, told: dict[str, Any]) -> Path:
    config = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        **told["config"],
    }
    return write_published(folder, config, reference_state(told["manifest"]))


@pytest.fixture(scope="module", params=PAIRS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Tensor], VLM]:
    told, numbers = golden(request.param)
    folder = published_folder(tmp_path_factory.mktemp("published") / "any-name", told)
    assert detect(folder) == "internvl_chat"
    return told, numbers, load_published(folder)


@pytest.mark.slow_beyond(1)
def test_golden_pixels_features_and_logits(pair: Any) -> None:
    told, numbers, vlm = pair
    tiles = [vlm.tiler(make_image(spec)) for spec in told["images"]]
    assert [item.plan.count for item in tiles] == told["tiles"]
    pixels = torch.cat([item.pixels for item in tiles])
    normalised = vlm.encoder.pixels(pixels, torch.float32)
    torch.testing.assert_close(normalised.mean((2, 3)), numbers["pixel_mean"], atol=5e-5, rtol=0)
    ids, plans = numbers["input_ids"][None], [item.plan for item in tiles]
    assert vlm.image_token_id == told["config"]["image_context_id"]
    with torch.no_grad():
        output = vlm(ids, pixels, plans)
    seen = torch.cat(output.visual_tokens)
    wanted = numbers["visual_features"].flatten(0, 1)
    torch.testing.assert_close(seen, wanted, atol=5e-5, rtol=0)
    logits = output.logits[0, numbers["logit_positions"]]
    torch.testing.assert_close(logits, numbers["logits"], atol=5e-5, rtol=0)
    new = vlm.generate(ids, pixels, plans, max_new_tokens=8, stop_ids=[])
    assert new[0].tolist() == numbers["greedy_ids"][1:].tolist()


def test_greedy_answers_end_at_the_published_end(pair: Any) -> None:
    _, _, vlm = pair
    assert vlm.llm.tokenizer is None
    assert list(vlm.llm.stop_ids) == [7]


# --- other sizes, against the arithmetic written out ----------------------------------------------


def config(**changes: Any) -> dict[str, Any]:
    """A small configuration; ``vision`` and ``llm`` change the inner ones."""
    plain = {
        "model_type": "internvl_chat",
        "vision_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "patch_size": 14,
            "image_size": 56,
            "qk_normalization": True,
            "qkv_bias": False,
            "layer_norm_eps": 1e-6,
        },
        "llm_config": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 90,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "eos_token_id": 7,
        },
        "select_layer": -1,
        "force_image_size": 56,
        "downsample_ratio": 0.5,
        "template": "Hermes-2",
    }
    for part, key in (("vision", "vision_config"), ("llm", "llm_config")):
        plain[key] |= changes.pop(part, {})
    return plain | changes


def manifest(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes that a published checkpoint of ``config`` has."""
    vision, llm = config["vision_config"], config["llm_config"]
    width, inner, size = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    places = (vision["image_size"] // size) ** 2 + 1
    at = "vision_model.embeddings"
    found: dict[str, tuple[int, ...]] = {
        f"{at}.class_embedding": (1, 1, width),
        f"{at}.position_embedding": (1, places, width),
        f"{at}.patch_embedding.weight": (width, 3, size, size),
        f"{at}.patch_embedding.bias": (width,),
    }
    for number in range(vision["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{number}"
        for name in ("ls1", "ls2", "norm1.weight", "norm2.weight"):
            found[f"{at}.{name}"] = (width,)
        if vision.get("norm_type") == "layer_norm":
            found |= {f"{at}.norm{index}.bias": (width,) for index in (1, 2)}
        if vision["qk_normalization"]:
            found |= {f"{at}.attn.{part}_norm.weight": (width,) for part in "qk"}
        if vision["qkv_bias"]:
            found[f"{at}.attn.qkv.bias"] = (3 * width,)
        found[f"{at}.attn.qkv.weight"] = (3 * width, width)
        for name, (rows, cols) in {
            "attn.proj": (width, width), "mlp.fc1": (inner, width), "mlp.fc2": (width, inner)
        }.items():  # fmt: skip
            found |= {f"{at}.{name}.weight": (rows, cols), f"{at}.{name}.bias": (rows,)}
    words, out, inner = llm["vocab_size"], llm["hidden_size"], llm["intermediate_size"]
    keys = out // llm["num_attention_heads"] * llm["num_key_value_heads"]
    biased = llm["architectures"] == ["Qwen2ForCausalLM"]
    for number in range(llm["num_hidden_layers"]):
        at = f"language_model.model.layers.{number}"
        for name, (rows, cols) in {
            "self_attn.q_proj": (out, out), "self_attn.k_proj": (keys, out),
            "self_attn.v_proj": (keys, out), "self_attn.o_proj": (out, out),
            "mlp.gate_proj": (inner, out), "mlp.up_proj": (inner, out), "mlp.down_proj": (out, inner),
        }.items():  # fmt: skip
            found[f"{at}.{name}.weight"] = (rows, cols)
            if biased and name.split(".")[1] in ("q_proj", "k_proj", "v_proj"):
                found[f"{at}.{name}.bias"] = (rows,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}.{name}.weight"] = (out,)
    factor = round(1 / config["downsample_ratio"])
    wide = width * factor**2
    return found | {
        "language_model.model.embed_tokens.weight": (words, out),
        "language_model.model.norm.weight": (out,),
        "language_model.lm_head.weight": (words, out),
        "mlp1.0.weight": (wide,),
        "mlp1.0.bias": (wide,),
        "mlp1.1.weight": (out, wide),
        "mlp1.1.bias": (out,),
        "mlp1.3.weight": (out, out),
        "mlp1.3.bias": (out,),
    }


def asked(vlm: VLM, sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor, list[Any]]:
    """(ids, pixels, plans) of a prompt with an image of each size."""
    tiles = [vlm.tiler(make_image(["gradient", *size, k])) for k, size in enumerate(sizes)]
    ids = [3, 5]
    for item in tiles:
        ids += [11] + [vlm.image_token_id] * vlm.merger.token_count(item.plan) + [12, 9]
    pixels = torch.cat([item.pixels for item in tiles])
    return torch.tensor([[*ids, 4]]), pixels, [item.plan for item in tiles]


def assert_as_described(
    vlm: VLM, config: dict[str, Any], state: dict[str, Tensor], sizes: list[tuple[int, int]]
) -> None:
    """Features, logits of every position and greedy ids are those of the description."""
    ids, pixels, plans = asked(vlm, sizes)
    told = {"ps_version": "v1"} | config
    told["vision_config"] = {"norm_type": "rms_norm"} | config["vision_config"]

    def wanted(ids: Tensor) -> tuple[Tensor, Tensor]:
        normalised = vlm.encoder.pixels(pixels, torch.float32)
        return chat(state, ids, normalised, told, image_id=vlm.image_token_id)

    features, logits = wanted(ids)
    output = vlm(ids, pixels, plans)
    torch.testing.assert_close(
        torch.cat(output.visual_tokens), features.flatten(0, 1), atol=5e-5, rtol=0
    )
    torch.testing.assert_close(output.logits, logits, atol=5e-5, rtol=0)
    new = vlm.generate(ids, pixels, plans, max_new_tokens=3, stop_ids=[])
    for step in range(3):
        assert int(wanted(ids)[1][0, -1].argmax()) == int(new[0, step])
        ids = torch.cat([ids, new[:, step : step + 1]], 1)


ONE, TWO, MORE = [(80, 60)], [(80, 60), (30, 150)], [(200, 60), (40, 50), (90, 170)]
CASES = {
    "v1, one view": (config(), ONE),
    "v1, two images": (config(ps_version="v1"), TWO),
    "v2, tiles and thumbnails": (
        config(ps_version="v2", dynamic_image_size=True, max_dynamic_patch=4, use_thumbnail=True),
        MORE,
    ),
    "v1 with tiles, no thumbnail": (
        config(ps_version="v1", dynamic_image_size=True, min_dynamic_patch=2, max_dynamic_patch=6),
        TWO,
    ),
    "300M norms, Qwen2": (
        config(
            ps_version="v2",
            vision={"norm_type": "layer_norm", "qk_normalization": False, "qkv_bias": True},
            llm={"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 4},
        ),
        TWO,
    ),
    "an earlier layer, another size": (
        config(
            select_layer=-2,
            force_image_size=84,
            vision={"num_hidden_layers": 3, "num_attention_heads": 4},
            llm={"rope_theta": 5e6, "num_hidden_layers": 1},
        ),
        ONE,
    ),
}


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("case", CASES)
def test_other_sizes_are_as_described(case: str, tmp_path: Path) -> None:
    told, sizes = CASES[case]
    state = reference_state(manifest(told))
    vlm = load_published(write_published(tmp_path, told, state))
    with torch.no_grad():
        assert_as_described(vlm, told, state, sizes)


# --- adapters ------------------------------------------------------------------------------------


def with_adapters(
    state: dict[str, Tensor], ranks: dict[str, int]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(as the trainer saves it, merged): LoRA on the linear layers of each model in ``ranks``."""
    saved, merged = dict[str, Tensor](), dict(state)
    for key, value in state.items():
        part, _, rest = key.partition(".")
        rank = ranks.get(part, 0)
        stem = f"{part}.base_model.model.{rest}".removesuffix(".weight")
        layers = (".attn.", ".mlp.", ".self_attn.")
        if not rank:
            saved[key] = value
        elif value.ndim == 2 and any(name in key for name in layers):
            a, b = torch.randn(rank, value.shape[1]) / 9, torch.randn(value.shape[0], rank) / 9
            saved |= {f"{stem}.base_layer.weight": value, f"{stem}.lora_A.default.weight": a}
            saved[f"{stem}.lora_B.default.weight"] = b
            merged[key] = value + 2.0 * b @ a
        elif (
            key.endswith(".bias")
            and key.removesuffix("bias") + "weight" in state
            and (any(name in key for name in layers))
        ):
            saved[f"{stem.removesuffix('.bias')}.base_layer.bias"] = value
        else:
            saved[f"{part}.base_model.model.{rest}"] = value
    return saved, merged


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "ranks",
    [
        {"language_model": 3},
        {"vision_model": 2},
        {"language_model": 16, "vision_model": 8},
    ],
    ids=str,
)
def test_adapters_are_merged_on_the_way(ranks: dict[str, int], tmp_path: Path) -> None:
    told = config(
        use_llm_lora=ranks.get("language_model", 0),
        use_backbone_lora=ranks.get("vision_model", 0),
    )
    saved, merged = with_adapters(reference_state(manifest(told)), ranks)
    vlm = load_published(write_published(tmp_path, told, saved))
    assert not [name for name in vlm.state_dict() if "lora" in name]
    with torch.no_grad():
        assert_as_described(vlm, told, merged, ONE)


@pytest.mark.slow
def test_a_lost_half_of_an_adapter_is_an_error(tmp_path: Path) -> None:
    told = config(use_llm_lora=4)
    saved, _ = with_adapters(reference_state(manifest(told)), {"language_model": 4})
    at = "language_model.base_model.model.model.layers.0.mlp.up_proj"
    del saved[f"{at}.lora_B.default.weight"]
    with pytest.raises(ValueError, match=rf"surplus: {at}.lora_A.default.weight"):
        load_published(write_published(tmp_path, told, saved))


@pytest.mark.parametrize(("said", "stored"), [(0, 4), (8, 4), (16, 0)])
def test_the_rank_must_be_the_stored_one(said: int, stored: int, tmp_path: Path) -> None:
    told = config(use_llm_lora=said)
    saved, _ = with_adapters(reference_state(manifest(told)), {"language_model": stored})
    with pytest.raises(ValueError, match=rf"use_llm_lora={said} but {stored} is stored"):
        load_published(write_published(tmp_path, told, saved))


# --- InternLM2 -----------------------------------------------------------------------------------


def as_internlm2(state: dict[str, Tensor], llm: dict[str, Any]) -> dict[str, Tensor]:
    """A Llama's tensors in InternLM2's names, queries, keys and values in one matrix."""
    names = {
        "model.embed_tokens": "model.tok_embeddings", "lm_head": "output",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    found = dict[str, Tensor]()
    size = llm["hidden_size"] // llm["num_attention_heads"]
    shared = llm["num_attention_heads"] // llm["num_key_value_heads"]
    for key, value in state.items():
        if not key.startswith("language_model."):
            found[key] = value
        elif ".q_proj." in key:
            parts = {p: state[key.replace(".q_proj.", f".{p}_proj.")].split(size) for p in "qkv"}
            rows = []
            for group in range(llm["num_key_value_heads"]):
                rows += parts["q"][group * shared : (group + 1) * shared]
                rows += [parts["k"][group], parts["v"][group]]
            found[key.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(rows)
        elif "k_proj" not in key and "v_proj" not in key:
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            found[key] = value
    return found


def test_internlm2_is_a_llama(tmp_path: Path) -> None:
    told = config(ps_version="v2", template="internlm2-chat")
    state = reference_state(manifest(told))
    published = copy.deepcopy(told)
    published["llm_config"]["architectures"] = ["InternLM2ForCausalLM"]
    published["llm_config"] |= {"bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    stored = as_internlm2(state, told["llm_config"])
    assert "language_model.model.layers.1.attention.wqkv.weight" in stored
    vlm = load_published(write_published(tmp_path, published, stored))
    rope = vlm.llm.model.config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("dynamic", 2.0, 10000.0)
    with torch.no_grad():
        assert_as_described(vlm, told, state, TWO)


# --- half precision ------------------------------------------------------------------------------


@pytest.mark.slow
def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    """bf16 has 8 bits of precision: features differ by at most 2 % of their spread, the best id is equal."""
    told, sizes = CASES["v2, tiles and thumbnails"]
    state = reference_state(manifest(told))
    folder = write_published(tmp_path, told, state)
    wide, narrow = load_published(folder), load_published(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        wanted, found = (model(*asked(model, sizes)) for model in (wide, narrow))
    assert found.logits.dtype == torch.bfloat16
    for ours, theirs in (
        (torch.cat(found.visual_tokens), torch.cat(wanted.visual_tokens)),
        (found.logits, wanted.logits),
    ):
        error = (ours.float() - theirs).square().mean().sqrt() / theirs.std()
        assert error < 0.02


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad2square": True}, "pad2square=True"),
        (
            {"template": "phi3-chat"},
            "template=phi3-chat .only Hermes-2, internlm2-chat, internvl2_5",
        ),
        ({"vision": {"hidden_act": "quick_gelu"}}, "hidden_act=quick_gelu"),
        ({"downsample_ratio": 0.4}, "1 . downsample_ratio must be a whole number"),
        ({"ps_version": "v3"}, "ps_version=v3 .only v1 and v2"),
        ({"llm": {"architectures": ["Phi3ForCausalLM"]}}, "must be one of LlamaForCausalLM"),
        ({"llm": {"vocab_size": 97}}, "llm_config.vocab_size=97 but 90 is stored"),
        ({"vision": {"image_size": 84}}, "image_size=84 but 56 is stored"),
        (
            {"vision": {"num_hidden_layers": 3}},
            r"missing: vision_model.encoder.layers.2.attn.k_norm",
        ),
        (
            {"llm": {"num_hidden_layers": 1}},
            r"surplus: language_model.model.layers.1.input_layernorm",
        ),
        ({"llm": {"intermediate_size": 60}}, r"misshapen: .*gate_proj.weight \(64, 48\) for"),
    ],
)
def test_a_configuration_of_another_model(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    state = reference_state(manifest(config()))
    with pytest.raises(ValueError, match=message):
        load_published(write_published(tmp_path, config(**changes), state))


@pytest.mark.parametrize(
    "name", ["select_layer", "downsample_ratio", "vision_config", "llm_config"]
)
def test_a_configuration_that_lacks_something(name: str, tmp_path: Path) -> None:
    told = config()
    state = reference_state(manifest(told))
    del told[name]
    with pytest.raises(ValueError, match=rf"must have {name}; it belongs to another model"):
        load_published(write_published(tmp_path, told, state))


def test_every_fault_of_the_weights_is_in_one_error(tmp_path: Path) -> None:
    told = config()
    state = reference_state(manifest(told))
    del state["mlp1.3.bias"], state["vision_model.encoder.layers.1.ls2"]
    state["language_model.model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 2)
    state["mlp1.1.weight"] = torch.zeros(48, 100)
    with pytest.raises(ValueError, match="must fit the model") as error:
        load_published(write_published(tmp_path, told, state))
    for text in ("mlp1.3.bias", "layers.1.ls2", "layers.7.mlp", "mlp1.1.weight (48, 100)"):
        assert text in str(error.value)


@pytest.mark.slow
def test_harmless_leftovers_are_ignored(tmp_path: Path) -> None:
    told = config(llm={"tie_word_embeddings": True})
    state = reference_state(manifest(told))
    state["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    vlm = load_published(write_published(tmp_path, told, state))
    tables = vlm.llm.model.get_input_embeddings(), vlm.llm.model.get_output_embeddings()
    assert tables[0].weight is tables[1].weight


@pytest.mark.slow
def test_slots_and_features_that_differ_in_number_are_an_error(tmp_path: Path) -> None:
    """The reference implementation truncates silently, or drops the sample."""
    told = config()
    vlm = load_published(write_published(tmp_path, told, reference_state(manifest(told))))
    ids, pixels, plans = asked(vlm, TWO)
    assert vlm.image_token_id == -1
    with pytest.raises(ValueError, match=r"hold 7 image slots .*, the images give 8 visual tokens"):
        vlm(torch.cat([ids[:, :5], ids[:, 6:]], 1), pixels, plans)


def test_the_system_message_is_what_the_configuration_says(tmp_path: Path) -> None:
    """Older files lack the field; the reference then wrote the template's, which changed later."""
    state = reference_state(manifest(config()))
    first = load_published(write_published(tmp_path / "a", config(), state))
    other = load_published(write_published(tmp_path / "b", config(system_message="Short."), state))
    assert (first.template.system, other.template.system) == ("Answer the questions.", "Short.")


def test_published_pixels_ignore_exif_and_alpha(tmp_path: Path) -> None:
    vlm = load_published(write_published(tmp_path, config(), reference_state(manifest(config()))))
    assert (vlm.tiler.exif, vlm.tiler.background, vlm.tiler.backend) == (False, None, "pillow")


@pytest.mark.slow
def test_shards_of_an_older_kind_are_converted_without_the_model_in_memory(tmp_path: Path) -> None:
    told = config()
    state = reference_state(manifest(told))
    wanted = load_published(write_published(tmp_path / "one", told, state)).state_dict()
    folder = write_published(tmp_path / "shards", told, {})
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: state[name] for name in part}, file)
    convert(folder, tmp_path / "own", max_shard=20_000)
    found = load_folder(tmp_path / "own").state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model-00002-of-00002.bin does not exist"):
        load_published(folder)
