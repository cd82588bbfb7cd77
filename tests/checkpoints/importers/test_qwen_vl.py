"""Qwen-VL's layout: published outputs, other sizes against the description, and refused folders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hdvl.bridges.resampler import sincos_table
from hdvl.checkpoints.importers import convert, detect, load_published
from hdvl.checkpoints.native import load_folder
from hdvl.model import VLM
from hdvl.protocols import Message
from hdvl.templates import encode
from tests.golden_files import golden, make_image, reference_state, write_published
from tests.llms.rank_files import learn_ranks, write_ranks
from tests.qwen_vl_gptq import TOLD, quantised
from tests.qwen_vl_reference import VISUAL, chat, manifest, see, table

PAIRS = ["short", "two_images", "long_ntk_logn", "no_ntk_base1e6"]
ATOL = 5e-5
START = 40
"""Id of ``<img>`` in the tiny models; the end tag and the slot follow."""


def close(ours: Tensor, wanted: Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(ours, wanted, atol=atol, rtol=0)


def described(**changes: Any) -> dict[str, Any]:
    """A tiny ``config.json`` as published."""
    visual = {
        "heads": 2,
        "image_size": 448,
        "image_start_id": START,
        "layers": 2,
        "mlp_ratio": 3.0,
        "output_dim": 128,
        "patch_size": 14,
        "width": 32,
    }
    config = {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
        "vocab_size": 64,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "kv_channels": 64,
        "intermediate_size": 192,
        "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 8192,
        "seq_length": 2048,
        "rotary_pct": 1.0,
        "rotary_emb_base": 10000.0,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "tie_word_embeddings": False,
    }
    own = {key: value for key, value in changes.items() if key in visual}
    return config | {k: v for k, v in changes.items() if k not in own} | {"visual": visual | own}


def published(config: dict[str, Any]) -> dict[str, Tensor]:
    """Weights as stored, and the position table that follows from its formula."""
    state = reference_state(manifest(config))
    state[f"{VISUAL}attn_pool.pos_embed"] = table(16, config["visual"]["output_dim"])
    return state


def prompt(images: int, length: int, config: dict[str, Any]) -> Tensor:
    """Random text around spans of ``<img>``, 256 slots, ``</img>``; ``length`` ids of text in all."""
    start = config["visual"]["image_start_id"]
    text = torch.randint(0, start - 1, (length,)).split(max(1, length // (images + 1)))
    span = torch.tensor([start, *[start + 2] * 256, start + 1])
    pieces = [piece for ids in text[:images] for piece in (ids, span)]
    return torch.cat([*pieces, *text[images:]])


def noise(vlm: VLM, count: int) -> tuple[Tensor, list[Any], Tensor]:
    """(uint8 tiles, their plans, the same pixels normalised)."""
    size = vlm.tiler.tile_size
    tiles = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    mean, std = (
        torch.tensor(numbers)[:, None, None] for numbers in (vlm.encoder.mean, vlm.encoder.std)
    )
    return tiles, [vlm.tiler.plan(300, 200)] * count, (tiles / 255 - mean) / std


def stepped(vlm: VLM, ids: Tensor, tiles: Tensor, plans: list[Any], new: Tensor) -> Tensor:
    """Logits of the last position of the prompt and of each id of ``new``, through the cache."""
    out = vlm.llm.model(
        inputs_embeds=vlm.merge_image_tokens(ids, vlm.encode_images(tiles, plans)), use_cache=True
    )
    rows = [out.logits[0, -1]]
    for one in new:
        out = vlm.llm.model(
            inputs_embeds=vlm.llm.embed(one[None, None]), past_key_values=out.past_key_values
        )
        rows.append(out.logits[0, -1])
    return torch.stack(rows)


# --- the published numbers ----------------------------------------------------------------------


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", PAIRS)
def test_golden_features_logits_and_answers(name: str, tmp_path: Path) -> None:
    told, numbers = golden(f"qwen_vl_{name}")
    config = {"model_type": "qwen", **told["config"]}
    state = reference_state(told["manifest"])
    if name != "short":  # which is stored without what is derived
        (derived,) = told["stored_but_derived"]
        state[derived] = table(16, 256)
    write_published(tmp_path, config, state)
    assert detect(tmp_path) == "qwen_vl"
    vlm = load_published(tmp_path)
    views = [vlm.tiler(make_image(spec)) for spec in told["images"]]
    tiles, plans = torch.cat([view.pixels for view in views]), [view.plan for view in views]
    ids = numbers["input_ids"][None]
    assert vlm.image_token_id == 302 and not vlm.training
    with torch.inference_mode():
        output = vlm(ids, tiles, plans)
        close(torch.stack(output.visual_tokens), numbers["visual_features"])
        close(output.logits[0, numbers["logit_positions"]], numbers["logits"])
        said = vlm.generate(ids, tiles, plans, max_new_tokens=8, stop_ids=[])[0]
        assert said.tolist() == numbers["greedy_ids"].tolist()
        close(stepped(vlm, ids, tiles, plans, said), numbers["step_logits"])


# --- other sizes --------------------------------------------------------------------------------

OTHERS = [
    # several images and layers, other widths
    (1, 20, {"layers": 3, "width": 48, "heads": 3, "num_hidden_layers": 3}),
    # a tile of another size, both rules at work from the prompt on
    (2, 9, {"image_size": 112, "seq_length": 100}),
    # two heads of the bridge, one of the language model; a vocabulary of its own
    (1, 5, {"output_dim": 256, "hidden_size": 256, "kv_channels": 256, "num_attention_heads": 1}),
    # no images; LogN alone; CatVision's base
    (0, 80, {"seq_length": 32, "use_dynamic_ntk": False, "rotary_emb_base": 1e6}),
    # NTK alone, twice doubled; more and narrower heads
    (
        1,
        30,
        {"seq_length": 90, "use_logn_attn": False, "kv_channels": 16, "num_attention_heads": 8},
    ),
    # the length is outgrown while the answer is being written
    (1, 4, {"seq_length": 263, "image_size": 126, "vocab_size": 50}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("images", "length", "changes"), OTHERS)
def test_numbers_are_those_of_the_description(
    images: int, length: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = described(**changes)
    state = published(config)
    vlm = load_published(write_published(tmp_path, config, state))
    ids = prompt(images, length, config)
    tiles, plans, pixels = noise(vlm, images)
    with torch.inference_mode():
        output = vlm(ids[None], tiles, plans)
        if images:
            close(torch.stack(output.visual_tokens), see(state, pixels, config))
        close(output.logits[0], chat(state, ids, pixels, config))
        new = torch.randint(0, START - 1, (6,))
        whole = chat(state, torch.cat((ids, new)), pixels, config, prompt=len(ids))
        close(stepped(vlm, ids[None], tiles, plans, new), whole[len(ids) - 1 :])


def test_a_batch_padded_on_the_left(tmp_path: Path) -> None:
    config = described(seq_length=100, image_size=112)
    state = published(config)
    vlm = load_published(write_published(tmp_path, config, state))
    tiles, plans, pixels = noise(vlm, 3)
    rows = [prompt(1, 7, config), prompt(2, 30, config), prompt(0, 60, config)]
    longest = max(map(len, rows))
    ids, mask = torch.zeros(3, longest, dtype=torch.long), torch.zeros(3, longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, -len(row) :], mask[number, -len(row) :] = row, 1
    with torch.inference_mode():
        logits = vlm(ids, tiles, plans, mask).logits
    for number, (row, own) in enumerate(
        zip(rows, (pixels[:1], pixels[1:], pixels[:0]), strict=True)
    ):
        close(logits[number, -len(row) :], chat(state, row, own, config))


@pytest.mark.slow
def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    """Within 2 % of the spread of the features and 5 % of that of the logits: 8 bits of precision."""
    config = described(seq_length=100, image_size=224)
    folder = write_published(tmp_path, config, published(config))
    vlm, half = load_published(folder), load_published(folder, dtype=torch.bfloat16)
    ids, (tiles, plans, _) = prompt(1, 30, config)[None], noise(vlm, 1)
    assert {value.dtype for value in half.state_dict().values()} == {torch.bfloat16}
    with torch.inference_mode():
        wanted, found = vlm(ids, tiles, plans), half(ids, tiles, plans)
    for bound, ours, theirs in (
        (0.02, found.visual_tokens[0].float(), wanted.visual_tokens[0]),
        (0.05, found.logits.float(), wanted.logits),
    ):
        assert (ours - theirs).pow(2).mean().sqrt() < bound * theirs.std()


# --- as the files lie -----------------------------------------------------------------------------


@pytest.mark.slow
def test_bin_shards_in_bfloat16(tmp_path: Path) -> None:
    """As Qwen-VL was published: pickled shards with an index, rounded position embeddings, derived keys."""
    config = described()
    exact = published(config)
    state = {key: value.bfloat16() for key, value in exact.items()}
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    state["transformer.rotary_emb.inv_freq"] = torch.ones(32)
    names = sorted(state)
    files = {key: f"pytorch_model-0000{1 + i % 3}-of-00003.bin" for i, key in enumerate(names)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in set(files.values()):
        torch.save({key: state[key] for key in names if files[key] == file}, tmp_path / file)
    index = {"metadata": {}, "weight_map": files}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    vlm = load_published(tmp_path)
    assert vlm.bridge.pos_embed.dtype == torch.bfloat16
    assert torch.equal(vlm.bridge.pos_embed, exact[f"{VISUAL}attn_pool.pos_embed"].bfloat16())
    wide = {key: value.float() for key, value in state.items() if not key.endswith("_bias")}
    wide |= {key: value.float() for key, value in state.items()}
    ids, (tiles, plans, pixels) = prompt(1, 5, config), noise(vlm, 1)
    with torch.inference_mode():
        close(vlm.float()(ids[None], tiles, plans).logits[0], chat(wide, ids, pixels, config))


@pytest.mark.slow
def test_converted_to_a_native_folder(tmp_path: Path) -> None:
    """The rules and the slots are kept, and no published file is needed any more."""
    config = described(seq_length=100, image_size=112)
    state = published(config)
    source = write_published(tmp_path / "published", config, state)
    native = convert(source, tmp_path / "native")
    for file in source.iterdir():
        file.unlink()
    vlm = load_folder(native)
    ids, (tiles, plans, pixels) = prompt(1, 20, config), noise(vlm, 1)
    with torch.inference_mode():
        close(vlm(ids[None], tiles, plans).logits[0], chat(state, ids, pixels, config))


@pytest.mark.parametrize(
    ("files", "width", "name"),
    [({}, 128, "qwen_vl"), ({}, 5120, "belle_vl"), ({}, 8192, "catvision")],
)
def test_recognised(files: dict[str, Any], width: int, name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(described(hidden_size=width, output_dim=width))
    )
    assert detect(tmp_path) == name


def test_a_qwen_without_vision_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen"}))
    assert detect(tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["belle_vl", "catvision"])
def test_related_models_are_imported_with_their_sizes(name: str, tmp_path: Path) -> None:
    config = described(vocab_size=70, layers=1, image_size=112)
    state = published(config)
    vlm = load_published(write_published(tmp_path, config, state), name)
    ids, (tiles, plans, pixels) = prompt(1, 5, config), noise(vlm, 1)
    with torch.inference_mode():
        close(vlm(ids[None], tiles, plans).logits[0], chat(state, ids, pixels, config))


@pytest.mark.slow
def test_chat_models_are_recognised_by_their_generation_settings(tmp_path: Path) -> None:
    config = described(image_size=56)
    write_published(tmp_path, config, published(config))
    base = load_published(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"chat_format": "chatml"}))
    chatting = load_published(tmp_path)
    assert type(base.template).__name__ == "Plain"
    assert type(chatting.template).__name__ == "ChatML"
    assert (base.llm.stop_ids, chatting.llm.stop_ids) == ((151643,), (151645, 151644, 151643))


# --- text -------------------------------------------------------------------------------------------


def with_ranks(folder: Path, **changes: Any) -> dict[str, Any]:
    """A published chat folder whose tokenizer has fewer ranks, and so earlier ids of the tags."""
    ranks = learn_ranks(40)
    write_ranks(folder, ranks)
    start = len(ranks) + 214  # behind 208 tokens of chat and six tags
    config = described(image_size=56, vocab_size=start + 6, **{"image_start_id": start, **changes})
    write_published(folder, config, published(config))
    (folder / "generation_config.json").write_text(json.dumps({"chat_format": "chatml"}))
    return config


@pytest.mark.slow
def test_an_image_and_a_question(tmp_path: Path) -> None:
    """An image has 258 ids; the ids between its tags are never embedded."""
    config = with_ranks(tmp_path)
    start, vlm = config["visual"]["image_start_id"], load_published(tmp_path)
    assert (vlm.image_token_id, vlm.llm.rows) == (start + 2, start + 6)
    image = make_image(["gradient", 90, 60, 0])
    message = Message("user", "What is this?", (image,))
    inputs = encode(vlm.template, vlm.llm.tokenizer, [message], [256], add_generation_prompt=True)
    ids = torch.as_tensor(inputs.ids)
    begin = int((ids == start).nonzero())
    assert ids[begin + 1 : begin + 257].eq(start + 2).all() and ids[begin + 257] == start + 1
    view = vlm.tiler(image)
    mean, std = (
        torch.tensor(numbers)[:, None, None] for numbers in (vlm.encoder.mean, vlm.encoder.std)
    )
    with torch.inference_mode():
        output = vlm(ids[None], view.pixels, [view.plan])
        wanted = chat(published(config), ids, (view.pixels / 255 - mean) / std, config)
        close(output.logits[0], wanted)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    with_ranks(tmp_path, image_start_id=300)
    with pytest.raises(ValueError, match=r"must give <imgpad> the id .* = 302, it gives"):
        load_published(tmp_path)


@pytest.mark.slow
def test_a_vocabulary_that_is_larger_than_the_table(tmp_path: Path) -> None:
    config = with_ranks(tmp_path)
    config["vocab_size"] = config["visual"]["image_start_id"] - 9
    write_published(tmp_path, config, published(config))
    with pytest.raises(ValueError, match="must hold the tokenizer's 512 tokens, got 501"):
        load_published(tmp_path)


# --- what the published code gets wrong ---------------------------------------------------------------


def test_training_reaches_the_images_without_writing_in_place(tmp_path: Path) -> None:
    """The published code overwrites embeddings in place, which fails in training or cuts off gradients."""
    config = described(image_size=56)
    vlm = load_published(write_published(tmp_path, config, published(config))).train()
    ids, (tiles, plans, _) = prompt(1, 9, config)[None], noise(vlm, 1)
    before = vlm.llm.embed(ids).detach().clone()
    loss = vlm(ids, tiles, plans, labels=ids).loss
    loss.backward()
    assert torch.equal(vlm.llm.embed(ids), before)
    idle = [name for name, value in vlm.named_parameters() if value.grad is None]
    assert idle == []
    assert vlm.encoder.model.patches.weight.grad.abs().max() > 0


def test_the_fixed_table_is_never_trained(tmp_path: Path) -> None:
    """In the published code, unfreezing the adapter makes its sines and cosines trainable."""
    config = described(image_size=56)
    vlm = load_published(write_published(tmp_path, config, published(config)))
    vlm.requires_grad_(True)
    assert not vlm.bridge.pos_embed.requires_grad
    assert "bridge.pos_embed" in vlm.state_dict()


@pytest.mark.slow
def test_an_answer_of_all_its_ids(tmp_path: Path) -> None:
    """The published code loses the last id if max_new_tokens ends an answer, and accumulates stop words."""
    config = described(image_size=56)
    vlm = load_published(write_published(tmp_path, config, published(config)))
    ids, stop = prompt(0, 9, config)[None], [63]
    tiles, plans, _ = noise(vlm, 0)
    first = vlm.generate(ids, tiles, plans, max_new_tokens=5, stop_ids=stop)
    assert first.shape == (1, 5) and stop == [63]
    assert torch.equal(first, vlm.generate(ids, tiles, plans, max_new_tokens=5, stop_ids=stop))


# --- four bits ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"hidden_size": 256, "output_dim": 256, "kv_channels": 128}, {"zero": None}),
        ({"intermediate_size": 768, "seq_length": 100}, {"shuffled": True}),
    ],
)
def test_int4_gives_the_numbers_of_the_weights_it_stands_for(
    changes: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    config = described(image_size=112, **{"intermediate_size": 512, **changes})
    stored, meant = quantised(published(config), **options)
    assert any(key.endswith("mlp.w1.bias") for key in stored)
    write_published(tmp_path, config | {"quantization_config": TOLD}, stored)
    assert detect(tmp_path) == "qwen_vl"
    vlm, half = load_published(tmp_path, dtype=torch.float32), load_published(tmp_path)
    ids, (tiles, plans, pixels) = prompt(1, 20, config), noise(vlm, 1)
    with torch.inference_mode():
        close(vlm(ids[None], tiles, plans).logits[0], chat(meant, ids, pixels, config))
    assert {value.dtype for value in half.state_dict().values()} == {torch.float16}
    up = half.llm.model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(up, meant["transformer.h.1.mlp.w1.weight"].half())


@pytest.mark.slow
def test_int4_that_is_not_as_published(tmp_path: Path) -> None:
    config = described(image_size=112, intermediate_size=512)
    stored, _ = quantised(published(config))
    told = config | {"quantization_config": TOLD | {"quant_method": "awq", "bits": 3}}
    refused(tmp_path, "must be AutoGPTQ's .* got quant_method awq, bits 3", told, stored)
    told = config | {"quantization_config": TOLD}
    damaged = stored | {"transformer.h.1.mlp.w2.bias": torch.full((256,), 0.5).half()}
    refused(tmp_path, "h.1.mlp.w2.bias must be zero, .* got up to 0.5", told, damaged)
    cut = stored | {"transformer.h.1.mlp.w2.qweight": torch.zeros(5, 256, dtype=torch.int32)}
    del cut["transformer.h.0.mlp.w2.scales"]
    said = refused(tmp_path, "missing: transformer.h.0.mlp.w2.scales; misshapen", told, cut)
    assert "qweight must hold 2, 4, 8 bits for each of 128 inputs, got 5 rows" in said


# --- what is refused ------------------------------------------------------------------------------


def refused(tmp_path: Path, message: str, config: dict[str, Any], state: dict[str, Tensor]) -> str:
    write_published(tmp_path, config, state)
    with pytest.raises(ValueError, match=message) as error:
        load_published(tmp_path, "qwen_vl")
    return str(error.value)


def test_all_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    config = described(image_size=56)
    state = published(config)
    del state["transformer.h.1.attn.c_attn.bias"], state[f"{VISUAL}proj"]
    state["transformer.h.0.mlp.w3.weight"] = torch.ones(2)
    state[f"{VISUAL}ln_post.bias"] = torch.ones(7)
    said = refused(tmp_path, "published weights must fit the model", config, state)
    assert f"missing: transformer.h.1.attn.c_attn.bias, {VISUAL}proj" in said
    assert "surplus: transformer.h.0.mlp.w3.weight" in said
    assert f"{VISUAL}ln_post.bias (7,) for bridge.ln_post.bias (128,)" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 65}, r"vocab_size=65 but 64 is stored; vocab_size \(head\)=65 but 64"),
        ({"num_hidden_layers": 3}, "num_hidden_layers=3 but 2 is stored"),
        ({"layers": 1}, "visual.layers=1 but 2 is stored"),
        ({"intermediate_size": 96}, "intermediate_size / 2=48 but 96 is stored"),
        ({"output_dim": 64}, "visual.output_dim=64 but 128 is stored"),
        ({"rotary_pct": 0.5}, "rotary_pct=0.5 .only 1.0"),
        ({"no_bias": False}, "no_bias=False .only True"),
    ],
)
def test_configurations_that_disagree(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused(tmp_path, message, described(**changes), published(described()))


def test_configuration_of_another_model(tmp_path: Path) -> None:
    state = published(described())
    refused(tmp_path, "must have visual; it belongs to another model, of type 'llama'",
            {"model_type": "llama"}, state)  # fmt: skip
    config = described()
    del config["seq_length"], config["kv_channels"]
    refused(tmp_path, "must have kv_channels, seq_length", config, state)


@pytest.mark.slow
def test_another_position_table(tmp_path: Path) -> None:
    config = described(image_size=56)
    state = published(config)
    key = f"{VISUAL}attn_pool.pos_embed"
    trained = state[key] + 0.02 * torch.randn_like(state[key]).clamp(-2, 2)
    state[key] = torch.cat((state[key][:, 64:], state[key][:, :64]), 1)  # y before x
    refused(tmp_path, "pos_embed must be the sines and cosines of the positions", config, state)
    write_published(tmp_path, config, state | {key: trained})
    with pytest.warns(UserWarning, match="pos_embed was trained: up to 0.04 off its formula"):
        assert torch.equal(load_published(tmp_path).bridge.pos_embed, trained)
    close(sincos_table(16, 128), table(16, 128), 1e-6)
