"""Exported folders give hdvl's logits, ids and pixels in transformers, or the export is refused."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from hdvl.checkpoints import save_folder
from hdvl.checkpoints.exporters import export
from hdvl.checkpoints.exporters.agreement import SIZES, read, tiles_of
from hdvl.checkpoints.exporters.exporting import target_of
from hdvl.checkpoints.importers import load_published
from hdvl.checkpoints.preprocessing import golden_image
from hdvl.config import build, from_plain
from hdvl.model import VLM
from hdvl.processor import Processor, collate
from hdvl.protocols import Message
from tests.native_models import scattered
from tests.tiny_model import NODE

PILLOW = {"backend": "pillow", "background": [255, 255, 255], "exif": False}
SQUASH = {"_target_": "hdvl.tilers.Squash", "tile_size": 28, **PILLOW}
DYNAMIC = {"_target_": "hdvl.tilers.DynamicRatio", "tile_size": 28, "max_tiles": 4, **PILLOW}
ANYRES = {"_target_": "hdvl.tilers.AnyRes", "tile_size": 28, **PILLOW}
CONCAT = {"_target_": "hdvl.mergers.Concat", "_partial_": True}
INTERN_VIT = {
    "_target_": "hdvl.encoders.InternViT",
    **{"width": 32, "depth": 3, "heads": 2, "mlp_width": 48, "patch": 7, "image_size": 28},
}
SHUFFLE = {"_target_": "hdvl.bridges.PixelShuffleMLP", "_partial_": True, "order": "v2"}
HERMES = {"_target_": "hdvl.templates.Hermes2"}


def tower(kind: str) -> dict[str, Any]:
    sizes = {
        **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2},
        **{"intermediate_size": 48, "image_size": 28, "patch_size": 7},
    }
    return {
        "_target_": "hdvl.encoders.TransformersEncoder",
        **{"name": kind, "config": sizes, "select_layer": -2},
        **{"mean": [0.4, 0.5, 0.45], "std": [0.25, 0.3, 0.27]},
    }


def node(**parts: Any) -> dict[str, Any]:
    """A composition in InternVL's shape, with parts replaced."""
    found = deepcopy(NODE) | {"encoder": INTERN_VIT, "bridge": SHUFFLE, "merger": CONCAT}
    return found | {"tiler": DYNAMIC, "template": HERMES} | parts


LLAVA = {"bridge": {"_target_": "hdvl.bridges.MLP", "_partial_": True}, "tiler": SQUASH}
NEXT = {
    **LLAVA,
    "tiler": ANYRES,
    "merger": {"_target_": "hdvl.mergers.Spatial", "_partial_": True},
}
CHATML = {"_target_": "hdvl.templates.ChatML"}
CASES = {
    "internvl": ("InternVL", node()),
    "internvl, one view, an earlier layer": (
        "InternVL",
        node(tiler=SQUASH, encoder=INTERN_VIT | {"select_layer": -2}),
    ),
    "internvl, positions stretched": (
        "InternVL",
        node(encoder=INTERN_VIT | {"tile_size": 42}, tiler=DYNAMIC | {"tile_size": 42}),
    ),
    "internvl, numbered images": (
        "InternVL",
        node(template=HERMES | {"numbering": "Image-{k}: ", "system": "答"}),
    ),
    "llava": ("Llava", node(encoder=tower("clip_vision_model"), template=CHATML, **LLAVA)),
    "llava, siglip": (
        "Llava",
        node(encoder=tower("siglip_vision_model"), template=HERMES, **LLAVA),
    ),
    "llava-next": ("LlavaNext", node(encoder=tower("clip_vision_model"), template=CHATML, **NEXT)),
}


def saved(plain: dict[str, Any], folder: Path) -> VLM:
    vlm: VLM = scattered(build(from_plain(plain)))
    save_folder(vlm, folder, {"model": plain})
    return vlm


def conversation() -> list[Message]:
    images = [Image.fromarray(golden_image(*size)) for size in SIZES]
    return [
        Message("user", "What is this?", images=(images[0],)),
        Message("assistant", "A page."),
        Message("user", "And this?", images=(images[1],)),
    ]


QUICK = ("internvl", "llava-next")


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES],
)
def test_transformers_computes_the_same(case: str, tmp_path: Path) -> None:
    name, plain = CASES[case]
    vlm = saved(plain, tmp_path / "hdvl")
    found = export(tmp_path / "hdvl", tmp_path / "native")
    assert found.architecture == f"{name}ForConditionalGeneration"
    assert found.notes == ()
    model, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "native", output_loading_info=True
    )
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(tmp_path / "native")
    # By Pillow, as the published systems; torchvision's resizing is a grey level or two away.
    processor.image_processor = AutoImageProcessor.from_pretrained(
        tmp_path / "native", backend="pil"
    )
    talk = conversation()
    ours = Processor.of(vlm)(talk, add_generation_prompt=True)
    theirs = read(processor, talk)
    assert theirs["input_ids"][0].tolist() == ours.ids.tolist()
    own = vlm.encoder.pixels(ours.pixels, torch.float32)
    tiles = tiles_of(theirs["pixel_values"], [plan.count for plan in ours.plans])
    torch.testing.assert_close(tiles, own, atol=1e-5, rtol=0)
    with torch.no_grad():
        batch = collate([ours], pad_id=0)
        logits = vlm(batch.input_ids, batch.pixels, batch.plans).logits
        torch.testing.assert_close(model(**theirs).logits, logits, atol=5e-5, rtol=0)
    new = vlm.generate(batch.input_ids, batch.pixels, batch.plans, max_new_tokens=4)
    said = model.generate(**theirs, max_new_tokens=4)[:, ours.ids.shape[0] :]
    assert said.tolist()[0][: new.shape[1]] == new.tolist()[0]


REFUSED = {
    "v1 order": (node(bridge=SHUFFLE | {"order": "v1"}), r"bridge.order=v1 \(only v2\)"),
    "a wider bridge": (node(bridge=SHUFFLE | {"hidden": 40}), r"bridge.hidden=40 \(only 32\)"),
    "no thumbnail": (node(tiler=DYNAMIC | {"thumbnail": None}), r"thumbnail=None \(only last\)"),
    "overlap": (
        node(
            tiler={
                "_target_": "hdvl.tilers.SlidingWindow",
                **{"tile_size": 28, "stride": 14, "multiple_of": 14},
            },
            merger={"_target_": "hdvl.mergers.OverlapBlend", "_partial_": True},
        ),
        r"merger=<class .*OverlapBlend'>.*tiler is SlidingWindow \(only DynamicRatio and Squash\)",
    ),
    "resampler": (
        node(bridge={"_target_": "hdvl.bridges.Resampler", "_partial_": True, "num_queries": 4}),
        "encoder InternViT with bridge Resampler is neither InternVL",
    ),
    "a convolutional encoder": (
        node(encoder=NODE["encoder"], bridge=NODE["bridge"], tiler=NODE["tiler"]),
        "encoder ConvStem with bridge MLP is neither",
    ),
    "positions": (
        node(
            encoder=tower("clip_vision_model"),
            **NEXT | {"merger": NEXT["merger"] | {"positions": "sincos2d"}},
        ),
        r"merger.positions=True \(only False\)",
    ),
    "another tile size": (
        node(
            encoder=tower("clip_vision_model") | {"tile_size": 42},
            **LLAVA | {"tiler": SQUASH | {"tile_size": 42}},
        ),
        r"encoder.tile_size=42 \(only its image_size=28",
    ),
    "a final norm": (
        node(encoder=tower("siglip_vision_model") | {"final_norm": True}, **LLAVA),
        r"encoder.final_norm=True \(only False\)",
    ),
    "a language model with its own head": (
        node(llm=NODE["llm"] | {"config": NODE["llm"]["config"] | {"model_type": "granite"}}),
        r"the language model is GraniteModel \(granite\)",
    ),
}


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("case", REFUSED)
def test_models_without_a_class_in_transformers_are_refused_with_the_reason(case: str) -> None:
    plain, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        target_of(build(from_plain(plain)))


@pytest.mark.slow
def test_all_reasons_are_in_one_error_and_overrides_can_resolve_them(tmp_path: Path) -> None:
    plain = node(bridge=SHUFFLE | {"order": "v1"}, tiler=DYNAMIC | {"thumbnail": "first"})
    saved(plain, tmp_path / "hdvl")
    with pytest.raises(ValueError, match=r"bridge.order=v1") as error:
        export(tmp_path / "hdvl", tmp_path / "native")
    assert "tiler.thumbnail=first" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hdvl"]
    changes = {"bridge": {"order": "v2"}, "tiler": {"thumbnail": "last"}}
    export(tmp_path / "hdvl", tmp_path / "native", overrides=changes)


@pytest.mark.slow
def test_differences_of_transformers_are_reported(tmp_path: Path) -> None:
    saved(node(tiler=DYNAMIC | {"background": None, "backend": "exact"}), tmp_path / "a")
    found = export(tmp_path / "a", tmp_path / "b")
    assert [note.split(":")[0] for note in found.notes] == ["transparent pixels", "resampling"]


def test_the_folder_must_be_new_and_the_source_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold a config.yaml"):
        export(tmp_path, tmp_path / "native")
    with pytest.raises(ValueError, match="to must be a new folder"):
        export(tmp_path / "hdvl", tmp_path)


@pytest.mark.slow
def test_an_exported_folder_is_imported_again(tmp_path: Path) -> None:
    """An exported folder can be imported again, with the same tensors."""
    vlm = saved(node(), tmp_path / "hdvl")
    export(tmp_path / "hdvl", tmp_path / "native", max_shard=20_000)
    assert (tmp_path / "native" / "model.safetensors.index.json").is_file()
    back = load_published(tmp_path / "native")
    state = back.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in vlm.state_dict().items())
    talk = conversation()
    ids = [Processor.of(model)(talk, add_generation_prompt=True).ids for model in (vlm, back)]
    assert torch.equal(*ids)
