"""LFM2-VL folders of transformers: pixels, ids, logits, answers and losses of its own classes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import Lfm2VlForConditionalGeneration, Lfm2VlProcessor

import hdvl
from hdvl.callbacks.feature_cache import FeatureStore
from hdvl.checkpoints.importers import detect, load_published
from hdvl.checkpoints.importers.conversion import convert
from hdvl.inference import Pipeline
from hdvl.processor import Processor, collate, pack
from hdvl.training.tuning import apply_tuning, set_modes
from hdvl.views import view_pixels
from tests.lfm2_vl_reference import inputs, logits, photo, processor, saved, talk
from tests.native_models import lfm2_vl

SIZES = [
    *((40, 30), (120, 90), (90, 200), (300, 60), (33, 32), (48, 48), (5, 4), (3, 9)),
    *((1, 1), (1, 20), (20, 1), (2, 2), (517, 211), (64, 96), (63, 17)),
]
PROMPTS = [
    *([size] for size in SIZES),
    [],
    [(120, 90), (40, 30)],
    [(20, 20), (200, 50), (30, 70)],
]


class Published(NamedTuple):
    """A published model with its processor, and hdvl's of the same folder."""

    model: Any
    reference: Any
    folder: Path
    pipe: Pipeline


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    model, reference = lfm2_vl(), processor()
    folder = saved(model, reference, tmp_path_factory.mktemp("lfm2_vl"))
    return Published(model, reference, folder, hdvl.load(folder))


@pytest.mark.slow
def test_the_folder_is_recognised(published: Published) -> None:
    assert detect(published.folder) == "lfm2_vl"
    assert published.pipe.template.image_parts
    assert list(published.pipe.model.llm.stop_ids) == [2]


def test_pixels_are_those_of_transformers_own_processor(published: Published) -> None:
    vlm = published.pipe.model
    for size in SIZES:
        tiles = vlm.tiler(photo(*size))
        theirs = inputs(published.reference, [talk(size)])
        shapes = theirs["spatial_shapes"].tolist()
        assert [(4 * cols, 4 * rows) for rows, cols in shapes] == list(tiles.plan.sizes), size
        views = view_pixels(tiles.pixels, tiles.plan)
        for view, patches, (rows, cols) in zip(views, theirs["pixel_values"], shapes, strict=True):
            own = rearrange(view, "c (r p) (s q) -> (r s) (p q c)", p=4, q=4)
            grey = (patches[: rows * cols] * 0.5 + 0.5) * 255
            assert torch.equal(own, grey.round().to(torch.uint8)), size


@pytest.mark.slow_beyond(2, every=4)
@pytest.mark.parametrize("sizes", PROMPTS, ids=str)
def test_ids_and_logits_are_transformers_own(
    sizes: list[tuple[int, int]], published: Published
) -> None:
    prompt = talk(*sizes)
    theirs = inputs(published.reference, [prompt])["input_ids"][0]
    own = published.pipe.processor(prompt, add_generation_prompt=True).ids
    assert own.tolist() == theirs.tolist()
    wanted = logits(published.model, published.reference, prompt)
    torch.testing.assert_close(published.pipe.logits(prompt), wanted, atol=1e-4, rtol=0)


COMPOSITIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "untied head, no norm, no bias": (
        {"tie_word_embeddings": False, "projector_use_layernorm": False, "projector_bias": False},
        {},
    ),
    "no thumbnail": ({"projector_hidden_act": "silu"}, {"use_thumbnail": False}),
    "no splitting": ({}, {"do_image_splitting": False}),
    "one token a patch": ({"downsample_factor": 1}, {"downsample_factor": 1}),
    "3 x 3 patches of 5 px": (
        {"downsample_factor": 3, "tower": {"patch_size": 5, "num_patches": 16}},
        {
            "downsample_factor": 3,
            "encoder_patch_size": 5,
            "tile_size": 30,
            "resample": 3,
            "max_pixels_tolerance": 1.5,
        },
    ),
    "plain pixels": ({}, {"do_normalize": False, "max_tiles": 2}),
    "pixels of another unit": ({}, {"rescale_factor": 1 / 100}),
    "always 4 tiles": ({"tower": {"layer_norm_eps": 1e-3}}, {"min_tiles": 4, "max_tiles": 4}),
    "a pooling head, other colours": (
        {"tower": {"vision_use_head": True, "hidden_act": "gelu"}},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 1},
    ),
    "other convolutions": (
        {"text": {"conv_bias": True, "conv_L_cache": 4, "block_auto_adjust_ff_dim": False}},
        {},
    ),
    "qwen2": ({"text": {"model_type": "qwen2", "layer_types": None}}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_other_compositions(name: str, tmp_path: Path) -> None:
    changes, settings = COMPOSITIONS[name]
    model, reference = lfm2_vl(**changes), processor(**settings)
    pipe = hdvl.load(saved(model, reference, tmp_path))
    for sizes in ([(40, 30)], [(120, 90), (90, 40)], []):
        prompt = talk(*sizes)
        theirs = inputs(reference, [prompt])["input_ids"][0].tolist()
        assert pipe.processor(prompt, add_generation_prompt=True).ids.tolist() == theirs
        wanted = logits(model, reference, prompt)
        torch.testing.assert_close(pipe.logits(prompt), wanted, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_half_precision_folders(tmp_path: Path) -> None:
    reference = processor()
    folder = saved(lfm2_vl().to(torch.bfloat16), reference, tmp_path)
    assert load_published(folder).llm.model.dtype == torch.bfloat16
    model = Lfm2VlForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    wanted = logits(model.eval(), reference, talk((120, 90)))
    found = hdvl.load(folder, dtype="float32").logits(talk((120, 90)))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("special", [True, False])
def test_the_tokens_around_an_image(special: bool, tmp_path: Path) -> None:
    names = {"image_start_token": "<|see|>", "image_thumbnail_token": "<|small|>"}
    saved(lfm2_vl(), processor(names=names), tmp_path)
    file = tmp_path / "tokenizer_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"use_image_special_tokens": special}))
    pipe = hdvl.load(tmp_path)
    reference = Lfm2VlProcessor.from_pretrained(tmp_path)
    prompt = talk((120, 90))
    own = pipe.processor(prompt, add_generation_prompt=True).ids
    assert own.tolist() == inputs(reference, [prompt])["input_ids"][0].tolist()
    text = pipe.tokenizer.decode(own)
    assert ("<|see|><|img_row_1_col_1|>" in text and "<|small|>" in text) == special


def test_no_token_is_added_to_a_text(tmp_path: Path) -> None:
    """The published processor disables special tokens of its tokenizer."""
    reference = processor()
    start = ("<|startoftext|>", 1)
    reference.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|startoftext|> $A", pair="$A $B", special_tokens=[start]
    )
    reference.chat_template = reference.chat_template.removeprefix("{{- bos_token -}}")
    pipe = hdvl.load(saved(lfm2_vl(), reference, tmp_path))
    own = pipe.processor(talk((40, 30)), add_generation_prompt=True).ids
    assert own.tolist() == inputs(reference, [talk((40, 30))])["input_ids"][0].tolist()
    assert own[0] != start[1]


def test_weights_and_configuration_alone(published: Published, tmp_path: Path) -> None:
    """Without a processor, patch sizes are the model's and other settings the defaults of the class."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((published.folder / name).read_bytes())
    vlm = load_published(tmp_path)
    assert (vlm.tiler.tile_size, vlm.tiler.plan(100, 80).sizes) == (512, ((96, 80),))
    assert vlm.llm.tokenizer is None


def test_images_too_narrow_for_the_published_code(published: Published) -> None:
    """The published code gives more patches than its mask has; hdvl shortens the longer side."""
    for size in ((1, 300), (300, 1), (1000, 1), (3, 386)):
        with pytest.raises(RuntimeError, match=r"shape|stack expects"):
            logits(published.model, published.reference, talk(size))
        plan = published.pipe.tiler.plan(*size)
        assert max(width * height for width, height in plan.sizes) <= 64 * 4 * 4
        assert published.pipe.logits(talk(size)).isfinite().all()


@pytest.mark.slow
def test_greedy_answers_alone_and_in_a_batch(published: Published) -> None:
    prompts = [talk(*sizes) for sizes in PROMPTS[::3]]
    wanted = []
    for prompt in prompts:
        given = inputs(published.reference, [prompt])
        ids = published.model.generate(**given, max_new_tokens=8, do_sample=False)
        wanted.append(ids[0, given["input_ids"].shape[1] :].tolist())
    made = [published.pipe.processor(prompt, add_generation_prompt=True) for prompt in prompts]
    tokens = [(sample.ids, sample.pixels, sample.plans) for sample in made]
    assert published.pipe.generate_ids(tokens, max_new_tokens=8) == wanted
    assert [published.pipe.generate_ids([one], max_new_tokens=8)[0] for one in tokens] == wanted


@pytest.mark.slow
def test_loss_and_gradients_of_a_mixed_batch(published: Published) -> None:
    model, vlm = published.model, load_published(published.folder)
    rows = [talk(*sizes, answer="A cat.") for sizes in ([(40, 30)], [(120, 90), (9, 9)], [])]
    batch = collate([Processor.of(vlm)(row) for row in rows], pad_id=0)
    given = inputs(published.reference, rows, ask=False)
    assert torch.equal(given["input_ids"], batch.input_ids)
    output = vlm(batch.input_ids, batch.pixels, batch.plans, batch.attention_mask, batch.labels)
    wanted = model(**given, labels=batch.labels)
    torch.testing.assert_close(output.loss, wanted.loss, atol=1e-5, rtol=0)
    output.loss.backward()
    wanted.loss.backward()
    own, theirs = dict(vlm.named_parameters()), dict(model.named_parameters())
    for ours, name in (
        ("bridge.mlp.1.weight", "model.multi_modal_projector.linear_1.weight"),
        ("llm.model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        (
            "encoder.model.embeddings.position_embedding.weight",
            "model.vision_tower.embeddings.position_embedding.weight",
        ),
    ):
        found, expected = own[ours].grad, theirs[name].grad
        assert found is not None and expected is not None and expected.abs().max() > 0
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    model.zero_grad()


def test_packing_is_refused_with_the_reason(published: Published) -> None:
    vlm = published.pipe.model
    packed = pack([Processor.of(vlm)(talk((40, 30), answer="A cat."))] * 2)
    with pytest.raises(
        ValueError, match=r"a model with attention layers only, lfm2 has conv, full_att"
    ):
        vlm(packed.input_ids, packed.pixels, packed.plans, segments=packed.segments)


@pytest.mark.slow
def test_packing_with_another_language_model(tmp_path: Path) -> None:
    text = {"model_type": "qwen2", "layer_types": None}
    vlm = load_published(saved(lfm2_vl(text=text), processor(), tmp_path))
    made = [Processor.of(vlm)(talk(*sizes, answer="A cat.")) for sizes in PROMPTS[-4:]]
    alone = torch.cat([vlm(s.ids[None], s.pixels, s.plans).logits[0] for s in made])
    packed = pack(made)
    found = vlm(packed.input_ids, packed.pixels, packed.plans, segments=packed.segments)
    torch.testing.assert_close(found.logits[0], alone, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_converted_to_a_folder_of_hdvl(published: Published, tmp_path: Path) -> None:
    pipe = hdvl.load(convert(published.folder, tmp_path / "native"))
    for sizes in PROMPTS[-3:]:
        assert torch.equal(pipe.logits(talk(*sizes)), published.pipe.logits(talk(*sizes)))


@pytest.mark.slow
def test_features_of_views_of_any_size_are_cached(published: Published, tmp_path: Path) -> None:
    vlm = load_published(published.folder)
    tuning = {"encoder": "frozen", "bridge": "full", "merger": "full", "llm": "full"}
    apply_tuning(vlm, tuning)
    vlm.train()
    set_modes(vlm, tuning)
    store = FeatureStore(tmp_path, vlm.encoder)
    rows = [talk((120, 90), (40, 30), answer="A cat."), talk((40, 30), answer="A dog.")]
    batch = collate([Processor.of(vlm)(row) for row in rows], pad_id=0)
    given = (batch.input_ids, batch.pixels, batch.plans, batch.attention_mask, batch.labels)
    bare = vlm(*given).loss
    for _ in range(2):
        torch.testing.assert_close(vlm(*given, feature_cache=store).loss, bare)
    assert store.read >= store.encoded > 0 and store.damaged == 0


@pytest.mark.slow
def test_new_parts_on_a_loaded_model(published: Published) -> None:
    sliding = {"_target_": "hdvl.tilers.SlidingWindow", "tile_size": 32, "stride": 32}
    pipe = hdvl.load(published.folder, tiler=sliding | {"multiple_of": 8, "max_tiles": 8})
    made = pipe.processor(talk((120, 90)), add_generation_prompt=True)
    text = pipe.tokenizer.decode(made.ids)
    assert "<|img_row_2_col_3|>" in text
    assert pipe.logits(talk((120, 90))).isfinite().all()


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        ({"downsample_factor": 4}, {}, r"downsample_factor of the image processor=2 \(only 4\)"),
        ({}, {"encoder_patch_size": 8}, r"encoder_patch_size=8 \(only 4\)"),
        ({}, {"do_rescale": False}, "do_rescale=False"),
        ({}, {"do_pad": False}, "do_pad=False"),
        ({}, {"resample": 0}, "resample=0"),
        ({}, {"tile_size": 36}, "tile_size must be a multiple of multiple_of=8, got 36"),
        ({"projector_hidden_act": "wobbly"}, {}, "wobbly"),
        (
            {"vision_config": {"model_type": "clip_vision_model"}},
            {},
            "vision tower of .* must be siglip2_vision_model, got clip",
        ),
        (
            {"text_config": {"model_type": "gemma2"}},
            {},
            r"text_config.model_type=gemma2 \(only llama, .*lfm2",
        ),
    ],
    ids=str,
)
def test_what_is_not_read(
    config: dict[str, Any],
    settings: dict[str, Any],
    message: str,
    published: Published,
    tmp_path: Path,
) -> None:
    for file in published.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(told | config))
    told = json.loads((tmp_path / "processor_config.json").read_text())
    told["image_processor"] |= settings
    (tmp_path / "processor_config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path)


@pytest.mark.slow
def test_older_names_of_tensors_and_settings(published: Published, tmp_path: Path) -> None:
    """In the published folder the tower is in ``vision_model``, and the settings are in a separate file."""
    for file in published.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    tower = "model.vision_tower."
    assert any(key.startswith(tower) for key in state)
    renamed = {key.replace(tower, tower + "vision_model."): value for key, value in state.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    file = tmp_path / "processor_config.json"
    settings = json.loads(file.read_text())["image_processor"]
    file.unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    found = hdvl.load(tmp_path).logits(talk((120, 90)))
    assert torch.equal(found, published.pipe.logits(talk((120, 90))))
