"""XVERSE-V's three parts: published outputs, other sizes against the description, and refused folders."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import hdvl
from hdvl.checkpoints.importers import detect, load_published, mapping, published
from hdvl.checkpoints.importers.xverse_v import XverseV
from hdvl.checkpoints.native import build_vlm
from hdvl.checkpoints.nodes import Node, assemble
from hdvl.config import compose
from hdvl.llms import build_tokenizer, save_tokenizer
from hdvl.model import VLM
from hdvl.protocols import Message
from hdvl.templates import encode
from tests import xverse_v_reference as reference
from tests.golden_files import golden, make_image, reference_state
from tests.inference.saying import say
from tests.xverse_v_reference import Sizes, write_folder, write_parts

PAIRS = ["xverse_v_landscape", "xverse_v_single_tile", "xverse_v_two_images"]
NUMBER = 5e-5


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), atol=NUMBER, rtol=0)


# --- the published numbers ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=PAIRS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Tensor], Path, VLM]:
    told, numbers = golden(request.param)
    states = {part: reference_state(shapes) for part, shapes in told["manifest"].items()}
    folder = write_parts(
        tmp_path_factory.mktemp("published") / "any name",
        states,
        vision_config={"model_type": "clip_vision_model", **told["vision_config"]},
        llm_config={"model_type": "xverse", **told["llm_config"]},
        shards=2,
    )
    assert detect(folder) == "xverse_v"
    return told, numbers, folder, load_published(folder)


@pytest.mark.slow_beyond(1)
def test_golden_features_logits_and_answers(pair: Any) -> None:
    told, numbers, _, vlm = pair
    tiles = [vlm.tiler(make_image(spec)) for spec in told["images"]]
    plans = [item.plan for item in tiles]
    assert [plan.count for plan in plans] == told["tiles"]
    pixels = torch.cat([item.pixels for item in tiles])
    ids = numbers["ids_with_image_slots"][None]
    # The published demo leaves LoRA's dropout on; here everything is in evaluation mode.
    assert vlm.image_token_id == -1 and not any(part.training for part in vlm.modules())
    with torch.inference_mode():
        output = vlm(ids, pixels, plans)
    visual = torch.cat(output.visual_tokens).unflatten(0, (-1, 256))
    close(visual[0], numbers["visual_features_first_tile"])
    close(visual[-1], numbers["visual_features_last_tile"])
    close(visual.mean(-1), numbers["visual_features_mean"])
    close(output.logits[0, numbers["logit_positions"]], numbers["logits"])
    new = vlm.generate(ids, pixels, plans, max_new_tokens=8)
    assert new[0].tolist() == numbers["greedy_ids"].tolist()


def test_golden_prompts(pair: Any) -> None:
    """The prompts equal those of the reference, which tokenises text between images separately."""
    told, numbers, _, vlm = pair
    template = replace(vlm.template, system="")
    question = told["prompt"].removeprefix("Human: ").removesuffix("\nAssistant: ")
    message = Message(
        "user",
        question.replace("<ImageHere>\n", ""),
        tuple(make_image(spec) for spec in told["images"]),
    )
    assert template.render([message], add_generation_prompt=True).text == told["prompt"]
    first, *rest = (
        [ord(c) % 250 + 4 for c in part] for part in told["prompt"].split("<ImageHere>")
    )
    for piece, count in zip(rest, told["tiles"], strict=True):
        first += [-1] * (256 * count) + piece
    assert first == numbers["ids_with_image_slots"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS[1:2], indirect=True)
def test_bfloat16_is_near_float32(pair: Any) -> None:
    """Root mean square: within 2 % of the features' spread and 5 % of the logits'."""
    told, numbers, folder, vlm = pair
    half = load_published(folder, dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    tiles = vlm.tiler(make_image(told["images"][0]))
    with torch.inference_mode():
        output = half(numbers["ids_with_image_slots"][None], tiles.pixels, [tiles.plan])
    wanted = numbers["visual_features_first_tile"]
    assert apart(output.visual_tokens[0], wanted) < 0.02
    assert apart(output.logits[0, numbers["logit_positions"]], numbers["logits"]) < 0.05


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).pow(2).mean().sqrt() / wanted.std())


# --- other sizes --------------------------------------------------------------------------------


def drawn(seed: int) -> tuple[Sizes, list[tuple[int, int]]]:
    """Sizes, and those of some images, at random.

    Models narrower than these lose more than 5e-5 to float32 however they are computed.
    """
    draw = random.Random(seed)
    heads, vision_heads = draw.choice([2, 3, 4]), draw.choice([1, 2, 4])
    sizes = Sizes(
        tile=14 * draw.choice([2, 3, 4]),
        vision_width=vision_heads * draw.choice([16, 24]),
        vision_layers=draw.choice([2, 3, 5]),
        vision_heads=vision_heads,
        vision_inner=draw.randrange(16, 70),
        width=heads * draw.choice([16, 22, 32]),
        inner=draw.randrange(20, 120),
        layers=draw.choice([1, 2, 3]),
        heads=heads,
        vocabulary=draw.randrange(50, 400),
        rank=draw.choice([1, 3, 16, 64]),
        ln_vision=draw.random() < 0.5,
        infix=draw.choice(["", ".default"]),
    )
    # The first models see none, one, two, three, four images, from one tile to ten.
    sides = [draw.choice([5, 30, 60, 100, 300]) for _ in range(2 * (seed % 5))]
    return sizes, list(zip(sides[::2], sides[1::2], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 11))
def test_other_sizes_equal_the_description(seed: int, tmp_path: Path) -> None:
    sizes, shapes = drawn(seed)
    states = exact(sizes.states())
    vlm = load_published(write_folder(tmp_path / "m", sizes, shards=1 + seed % 3))
    images = [noise(*shape, number) for number, shape in enumerate(shapes)]
    tiles = [vlm.tiler(image) for image in images]
    own = [reference.tiles_of(image, sizes.tile).double() for image in images]
    assert [item.plan.count for item in tiles] == [len(item) for item in own]
    visual = [reference.see(states["vision"], states["adapter"], item, sizes) for item in own]
    ids, x = conversation(states, visual, sizes.vocabulary, seed)
    pixels = torch.cat([torch.empty(0, 3, sizes.tile, sizes.tile, dtype=torch.uint8)]
                       + [item.pixels for item in tiles])  # fmt: skip
    plans = [item.plan for item in tiles]
    with torch.inference_mode():
        output = vlm(ids[None], pixels, plans)
    for found, wanted in zip(output.visual_tokens, visual, strict=True):
        close(found, wanted)
    close(output.logits[0], reference.language(states["llm"], states["adapter"], x, sizes))
    wanted_ids, wanted_steps = reference.greedy(states, x, sizes, 6)
    assert (
        vlm.generate(ids[None], pixels, plans, max_new_tokens=6, stop_ids=[])[0].tolist()
        == wanted_ids
    )
    close(
        cached_steps(vlm, vlm.merge_image_tokens(ids[None], output.visual_tokens), wanted_ids),
        wanted_steps,
    )


def exact(states: dict[str, reference.State]) -> dict[str, reference.State]:
    return {part: {key: v.double() for key, v in state.items()} for part, state in states.items()}


def conversation(
    states: dict[str, reference.State], visual: list[Tensor], vocabulary: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Ids with slots, at odd seeds without any text between and before images; embeddings."""
    draw = random.Random(seed)
    ids = list[int]()
    for tokens in visual:
        ids += [draw.randrange(4, vocabulary) for _ in range(3 * (seed % 2 == 0))]
        ids += [-1] * len(tokens)
    ids += [draw.randrange(4, vocabulary) for _ in range(7)]
    row = torch.tensor(ids)
    seen = torch.cat([states["llm"]["lm_head.weight"][:0], *visual])
    return row, reference.embeddings(states["llm"], row, seen)


@torch.inference_mode()
def cached_steps(vlm: VLM, x: Tensor, ids: list[int]) -> Tensor:
    """The logits that each of ``ids`` was chosen from, through the cache of keys and values."""
    output = vlm.llm.model(inputs_embeds=x, use_cache=True)
    steps = [output.logits[0, -1]]
    for token in ids[:-1]:
        output = vlm.llm.model(
            input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values
        )
        steps.append(output.logits[0, -1])
    return torch.stack(steps)


# --- what is not copied -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``Sizes()`` with a tokenizer. Tests read it and leave it as it is."""
    folder = write_folder(tmp_path_factory.mktemp("published") / "small", Sizes(vocabulary=330))
    save_tokenizer(tokenizer(320), folder / "chat")
    return folder


def tokenizer(size: int) -> Any:
    special = ("<unk>", "<pad>", "<|startoftext|>", "<|endoftext|>")
    return build_tokenizer(
        vocab_size=size, special_tokens=special, pad_token="<pad>", eos_token="<|endoftext|>"
    )


@pytest.mark.slow
def test_a_third_image_sees_its_own_tiles(small: Path) -> None:
    """The published code sets the offset to the last count instead of adding it."""
    vlm = load_published(small)
    tiles = [
        vlm.tiler(noise(*size, seed)) for seed, size in enumerate([(60, 120), (200, 57), (90, 90)])
    ]
    plans = [item.plan for item in tiles]
    pixels = torch.cat([item.pixels for item in tiles])
    with torch.inference_mode():
        together = vlm.encode_images(pixels, plans)
        alone = [vlm.encode_images(item.pixels, [item.plan])[0] for item in tiles]
        start = plans[1].count  # where the published code looks for the third
        wrong = vlm.encode_images(pixels[start : start + plans[2].count], plans[2:])[0]
    for found, wanted in zip(together, alone, strict=True):
        close(found, wanted)
    assert (wrong - together[2]).abs().max() > 0.1


@pytest.mark.slow
def test_images_side_by_side_and_at_the_edges_keep_their_slots(small: Path) -> None:
    """The published training code joins neighbours and loses images at the ends of a sample."""
    vlm = load_published(small)
    shown = (noise(30, 30), noise(30, 30))
    messages = [Message("user", "<image><image>", shown), Message("assistant", "Two.")]
    encoded = encode(vlm.template, vlm.llm.tokenizer, messages, [16, 48])
    (first, second) = encoded.slots
    assert first[1] == second[0] and (first[1] - first[0], second[1] - second[0]) == (16, 48)
    assert (encoded.ids == vlm.image_token_id).sum() == 64
    said = vlm.llm.tokenizer.decode(encoded.ids[encoded.labels != -100])
    assert said == "Two.<|endoftext|>"


@pytest.mark.slow
def test_a_prompt_is_never_cut_from_the_left(small: Path) -> None:
    pipe = hdvl.load(small, max_length=20)
    with pytest.raises(ValueError, match="must not be longer than max_length=20"):
        pipe.chat("What is this?", images=noise(60, 120))


def test_generation_ends_with_3_not_with_2(small: Path) -> None:
    assert load_published(small).llm.stop_ids == (3,)


# --- text and options ---------------------------------------------------------------------------


def test_the_vocabulary_keeps_its_rows(small: Path) -> None:
    vlm = load_published(small)
    assert vlm.llm.rows == 330 and vlm.llm.tokenizer.pad_token_id == 1
    assert vlm.image_token_id == vlm.llm.tokenizer.convert_tokens_to_ids("<ImageHere>") == 320
    assert vlm.llm.tokenizer.encode("a<ImageHere>\nb") == [
        *vlm.llm.tokenizer.encode("a"),
        320,
        *vlm.llm.tokenizer.encode("\nb"),
    ]


@pytest.mark.slow
def test_a_slot_may_lie_outside_the_table(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", Sizes(vocabulary=320))
    save_tokenizer(tokenizer(320), folder / "chat")
    pipe = hdvl.load(folder)
    assert (pipe.model.llm.rows, pipe.model.image_token_id) == (320, 320)
    assert pipe.chat("What?", images=noise(60, 120), max_new_tokens=3).numbers.new_tokens <= 3


def test_questions_with_several_images_and_turns(small: Path) -> None:
    pipe = hdvl.load(str(small), template={"system": ""})
    answer = pipe.chat("What is this?", images=noise(60, 120), max_new_tokens=4)
    assert answer.numbers.tiles == 3 and answer.numbers.visual_tokens == 3 * 16
    again = pipe.chat("And now?", history=answer.history, max_new_tokens=4)
    assert again.numbers.tiles == 3


def test_answers_are_unchanged_in_the_history(small: Path) -> None:
    """The published demo escapes < and > in the history, so that later turns see the escapes."""
    pipe = hdvl.load(small)
    say(pipe, "a < b > c", end="<|endoftext|>")
    assert pipe.chat("Compare.").history[-1].text == "a < b > c"


def test_without_tokenizer_files_text_says_what_is_missing(tmp_path: Path) -> None:
    pipe = hdvl.load(write_folder(tmp_path / "m", Sizes()))
    ids = torch.tensor([[7, 8, 9]])
    empty = torch.empty(0, 3, 56, 56, dtype=torch.uint8)
    assert pipe.model.generate(ids, empty, [], max_new_tokens=2).shape[1] <= 2
    with pytest.raises(ValueError, match=r"needs a tokenizer.* put the published tokenizer\.json"):
        pipe.chat("What?")
    with pytest.raises(ValueError, match="needs a tokenizer"):
        pipe.stream("What?")


@pytest.mark.slow
def test_the_axes_are_an_option(small: Path) -> None:
    published_axes, natural = (
        load_published(small),
        load_published(small, overrides={"tiler": {"axes": "natural"}}),
    )
    wide = published_axes.tiler.plan(168, 56), natural.tiler.plan(168, 56)
    assert [(plan.rows, plan.cols) for plan in wide] == [(3, 1), (1, 3)]


@pytest.mark.slow
def test_parts_may_be_in_several_folders(small: Path) -> None:
    together = load_published(small)
    apart = load_published(
        {"vision": small / "clip", "llm": small / "chat", "adapter": small / "adapter_and_lora.bin"}
    )
    for (name, value), other in zip(
        together.state_dict().items(), apart.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    pipe = hdvl.load(
        {"vision": str(small / "clip"), "llm": str(small / "chat"), "adapter": str(small)}
    )
    assert pipe.tiler.tile_size == 56


@pytest.mark.slow
def test_a_whole_clip_with_its_text_side(small: Path, tmp_path: Path) -> None:
    """As in OpenAI's folder: one file for text and vision, with sizes under vision_config."""
    sizes = Sizes()
    folder = write_folder(tmp_path / "m", sizes)
    vision = load_file(folder / "clip" / "model.safetensors")
    vision |= {
        "text_model.final_layer_norm.weight": torch.ones(3),
        "text_projection.weight": torch.ones(2, 2),
        "visual_projection.weight": torch.ones(2, 2),
        "logit_scale": torch.tensor(4.6),
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    save_file(vision, folder / "clip" / "model.safetensors")
    config = {"model_type": "clip", "vision_config": sizes.vision_config}
    (folder / "clip" / "config.json").write_text(json.dumps(config))
    assert load_published(folder).encoder.width == sizes.vision_width


def test_what_the_published_configurations_may_say(tmp_path: Path) -> None:
    sizes = Sizes()
    states = sizes.states()
    states["llm"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    config = {**sizes.llm_config, "rope_theta": 500000.0}
    folder = write_parts(
        tmp_path / "m", states, vision_config=sizes.vision_config, llm_config=config
    )
    (folder / "chat" / "generation_config.json").write_text('{"eos_token_id": [3, 2]}')
    vlm = load_published(folder)
    assert vlm.llm.model.config.rope_parameters["rope_theta"] == 500000.0
    assert vlm.llm.stop_ids == (3, 2)


# --- full size ----------------------------------------------------------------------------------

FULL = Sizes(
    tile=224,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    vision_inner=4096,
    width=5120,
    inner=13824,
    layers=40,
    heads=40,
    vocabulary=100534,
    rank=128,
    ln_vision=False,
)


def test_the_adapter_file_has_the_published_size() -> None:
    shapes = FULL.manifest()["adapter"]
    sizes = {key: torch.Size(shape).numel() for key, shape in shapes.items()}
    assert sum(sizes.values()) == 532_162_560
    lora = [key for key in shapes if ".lora_" in key]
    assert len(lora) == 560 and sum(sizes[key] for key in lora) == 500_695_040


@pytest.mark.slow
def test_the_published_sizes_fit_the_preset_tensor_by_tensor(tmp_path: Path) -> None:
    """The mapping at full size, with shapes only: all 560 LoRA tensors are used."""
    open_files = published._OpenFiles()
    stored = {
        f"{part}/{key}": published.Stored(tuple(shape), torch.float32, tmp_path, key, open_files)
        for part, shapes in FULL.manifest().items()
        for key, shape in shapes.items()
    }
    files = published.Published(stored)
    importer = XverseV()
    config = {"vision": FULL.vision_config, "llm": FULL.llm_config, "parts": {"llm": tmp_path}}
    node = importer.node(tmp_path, config, files)
    preset = importer.preset_node()
    unsaid = {"tiler": {"stride": None}, "bridge": {"hidden": None}, "merger": {}}
    for part, left_out in unsaid.items():  # numbers that the preset leaves to its class
        assert {**node[part], **left_out} == preset[part]
    assert node["tiler"]["stride"] == node["tiler"]["tile_size"] == 224
    assert node["llm"] == preset["llm"]
    template = assemble(node["template"], source=tmp_path)
    assert template == assemble(preset["template"], source="the preset")
    vlm = build_vlm(Node(node), source=tmp_path)
    table = importer.mapping(list(mapping.targets_of(vlm)), node, files)
    mapping.check(table, files, vlm, importer.ignorable(node))
    used = {key for entry in table.values() for key in entry.keys}
    assert len([key for key in used if ".lora_" in key]) == 560
    assert sum(value.numel() for value in vlm.parameters()) == 14_039_703_552


@pytest.mark.slow
def test_the_plan_has_the_published_totals(capsys: pytest.CaptureFixture[str]) -> None:
    from hdvl.plan import run

    config = compose("model=xverse_v_13b", config_name="plan")
    run(OmegaConf.to_container(config, resolve=False))
    said = capsys.readouterr().out
    for total in ("31,467,520", "13,717,652,480", "290,583,552", "2,560"):
        assert total in said


# --- what is refused ----------------------------------------------------------------------------

Change = Callable[[dict[str, reference.State]], None]
WRAPPED = "llama_model.base_model.model.model.layers"


def pop(part: str, *keys: str) -> Change:
    return lambda states: [states[part].pop(key) for key in keys] and None


def put(part: str, key: str, *shape: int) -> Change:
    return lambda states: states[part].update({key: torch.ones(*shape)})


def only(part: str, keep: Callable[[str], bool]) -> Change:
    def change(states: dict[str, reference.State]) -> None:
        states[part] = {key: value for key, value in states[part].items() if keep(key)}

    return change


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            pop("adapter", f"{WRAPPED}.1.mlp.up_proj.lora_B.weight", "llama_proj.2.bias"),
            rf"missing: adapter/{WRAPPED}\.1\.mlp\.up_proj\.lora_B\.weight, adapter/llama_proj\.2\.bias$",
        ),
        (only("adapter", lambda key: "lora" not in key), r"missing: .*0\.mlp\.down_proj\.lora_A"),
        (pop("adapter", "ln_vision.bias"), r"missing: adapter/ln_vision\.bias$"),
        (put("adapter", "query_tokens", 1, 32), r"surplus: adapter/query_tokens$"),
        (put("llm", "model.layers.0.self_attn.q_proj.bias", 48), r"surplus: llm/model\.layers\.0"),
        (
            put("adapter", f"{WRAPPED}.0.self_attn.q_proj.lora_A.weight", 5, 48),
            r"misshapen: .*lora_A\.weight \(5, 48\).* cannot make llm\.model\.model\.layers\.0\.self_attn",
        ),
        (put("llm", "model.layers.1.mlp.up_proj.weight", 80, 47), "misshapen: .*up_proj"),
        (put("adapter", "llama_proj.0.weight", 48, 31), r"misshapen: .*llama_proj\.0.*\(48, 31\)"),
        (
            put("llm", "model.embed_tokens.weight", 301, 48),
            "must agree, they do not: vocab_size=300 but 301 is stored; one of the two",
        ),
        (put("llm", "lm_head.weight", 299, 48), r"vocab_size \(head\)=300 but 299 is stored"),
        (
            only("llm", lambda key: ".layers.1." not in key),
            "num_hidden_layers=2 but 1 is stored",
        ),
        (
            put("vision", "vision_model.encoder.layers.3.layer_norm1.weight", 32),
            "CLIP folder must agree, they do not: num_hidden_layers=3 but 4 is stored",
        ),
    ],
)
def test_what_does_not_fit_is_one_error(tmp_path: Path, change: Change, message: str) -> None:
    sizes = Sizes()
    states = sizes.states()
    change(states)
    configs = {"vision_config": sizes.vision_config, "llm_config": sizes.llm_config}
    folder = write_parts(tmp_path / "m", states, **configs)
    with pytest.raises(ValueError, match=message):
        load_published(folder)


def rewrite(file: Path, **changes: Any) -> None:
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "clip",
            {"model_type": "siglip_vision_model"},
            r"must hold one each .* got vision: none; or",
        ),
        (
            "chat",
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            "got llm: none; or give path=",
        ),
        ("chat", {"vocab_size": 400}, "vocab_size=400 but 300 is stored"),
    ],
)
def test_a_configuration_of_another_model(
    tmp_path: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    folder = write_folder(tmp_path / "m", Sizes())
    rewrite(folder / part / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_published(folder)


def test_parts_of_another_model(small: Path, tmp_path: Path) -> None:
    parts = {
        "vision": small / "clip",
        "llm": small / "chat",
        "adapter": small / "adapter_and_lora.bin",
    }
    with pytest.raises(ValueError, match=r"vision folder must be CLIP's, .* model_type='xverse'"):
        load_published({**parts, "vision": small / "chat"})
    with pytest.raises(ValueError, match="llm folder must be XVERSE's"):
        load_published({**parts, "llm": small / "clip"})
    with pytest.raises(
        ValueError, match="must be given the parts vision, llm, adapter, got vision"
    ):
        load_published({"vision": small / "clip"}, "xverse_v")
    with pytest.raises(ValueError, match="no published layout that hdvl knows"):
        load_published({"vision": small / "clip"})
    torch.save({"state": {}}, tmp_path / "other.bin")
    with pytest.raises(
        ValueError, match=r"other\.bin must hold a dict under 'model', got \['state'\]"
    ):
        load_published({**parts, "adapter": tmp_path / "other.bin"})


def test_two_language_models_in_one_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", Sizes())
    (folder / "chat-2").mkdir()
    (folder / "chat-2" / "config.json").write_text((folder / "chat" / "config.json").read_text())
    with pytest.raises(ValueError, match="got llm: chat, chat-2; or give"):
        load_published(folder)


def test_a_tokenizer_larger_than_the_vocabulary(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", Sizes(vocabulary=300))
    save_tokenizer(tokenizer(320), folder / "chat")
    with pytest.raises(ValueError, match="must fit the vocabulary of 300 rows, its last id is 319"):
        load_published(folder)
