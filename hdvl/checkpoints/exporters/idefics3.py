"""Exports to Idefics3 and SmolVLM of transformers: tiles with tags, pixel shuffle and one linear layer."""

from functools import partial
from typing import Any

from torch import nn

from hdvl.bridges import PixelShuffleMLP
from hdvl.checkpoints.exporters.target import (
    TransformersTarget,
    differing,
    language_model,
    transparency_notes,
)
from hdvl.checkpoints.importers.idefics3 import TOKENS
from hdvl.checkpoints.importers.image_settings import FILTERS
from hdvl.encoders import TransformersEncoder
from hdvl.mergers import Concat
from hdvl.mergers.tags import Tags
from hdvl.model import VLM
from hdvl.tilers import LongestEdge

_KINDS = {"idefics3_vision": "idefics3", "smolvlm_vision": "smolvlm"}
_NAMES = (
    (r"model\.vision_model\.(.*)", r"encoder.model.\1"),
    (r"model\.connector\.modality_projection\.proj\.weight", "bridge.mlp.1.weight"),
    (r"model\.text_model\.(.*)", r"llm.model.model.\1"),
    (r"lm_head\.(.*)", r"llm.model.lm_head.\1"),
)


def is_like(vlm: VLM) -> bool:
    """Whether the encoder and the bridge are those of Idefics3 or SmolVLM."""
    encoder = vlm.encoder
    return (
        isinstance(encoder, TransformersEncoder)
        and encoder.model.config.model_type in _KINDS
        and isinstance(vlm.bridge, PixelShuffleMLP)
    )


def target(vlm: VLM) -> tuple[TransformersTarget | None, list[str]]:
    """The description for transformers, or the reasons why neither class can represent this model."""
    encoder, bridge = vlm.encoder, vlm.bridge
    assert isinstance(encoder, TransformersEncoder) and isinstance(bridge, PixelShuffleMLP)
    vision = encoder.model.config
    kind = _KINDS[vision.model_type]
    text, reasons = language_model(vlm)
    reasons += _parts_reasons(vlm) + _tiler_reasons(vlm)
    tokens, tag_reasons = _tokens(vlm, kind)
    reasons += tag_reasons
    if kind == "smolvlm" and not _has_num2words():
        reasons.append(
            "SmolVLMProcessor of transformers needs the package num2words: pip install num2words"
        )
    if reasons:
        return None, reasons
    config = {
        "model_type": kind,
        "vision_config": {k: v for k, v in vision.to_dict().items() if k != "dtype"},
        "text_config": text,
        "image_token_id": vlm.image_token_id,
        "scale_factor": bridge.factor[0],
        "tie_word_embeddings": text["tie_word_embeddings"],
    }
    made = TransformersTarget(
        config=config,
        names=_NAMES,
        processor=partial(_processor, vlm, kind),
        tokens=tokens if kind == "smolvlm" else {},
        notes=_notes(vlm),
    )
    return made, []


def _parts_reasons(vlm: VLM) -> list[str]:
    encoder, bridge = vlm.encoder, vlm.bridge
    assert isinstance(encoder, TransformersEncoder) and isinstance(bridge, PixelShuffleMLP)
    linear: Any = bridge.mlp[1]
    return differing(
        {
            "encoder.final_norm": (encoder.final_norm, True),
            "encoder.feature_norm": (type(encoder.feature_norm), nn.Identity),
            "bridge.norm": (type(bridge.mlp[0]), nn.Identity),
            "bridge.depth": (sum(isinstance(layer, nn.Linear) for layer in bridge.mlp), 1),
            "bridge.bias": (linear.bias is not None, False),
            "bridge.order": (bridge.order, "v2"),
            "bridge.channel_order": (bridge.channel_order, "patch_major"),
            "both sides of bridge.factor": (len(set(bridge.factor)), 1),
            "merger": (type(vlm.merger), Concat),
        }
    )


def _tiler_reasons(vlm: VLM) -> list[str]:
    tiler = vlm.tiler
    if not isinstance(tiler, LongestEdge):
        return [f"tiler is {type(tiler).__name__} (only LongestEdge)"]
    expected = {
        "tiler.max_edge": (min(tiler.max_edge, max(tiler.longest_edge, 4096)), 4096),
        "tiler.thumbnail": (tiler.thumbnail, "last"),
        "tiler.skip_blank": (tiler.skip_blank, False),
    }
    return differing(expected)


def _tokens(vlm: VLM, kind: str) -> tuple[dict[str, str], list[str]]:
    """The tokens in the tags by transformers' names, and reasons why its processor cannot write the tags."""
    tags = getattr(vlm.merger, "tags", Tags())
    template: Any = vlm.template
    fake = tags.text("after_thumbnail")
    global_image = tags.text("before_thumbnail").removeprefix(fake)
    tokens = {
        "fake_image_token": fake,
        "global_image_token": global_image,
        "image_token": template.image_token,
    }
    if kind == "idefics3":
        tokens = dict(TOKENS)
    escaped = {key: token.replace("{", "{{").replace("}", "}}") for key, token in tokens.items()}
    fake, global_image = escaped["fake_image_token"], escaped["global_image_token"]
    expected = Tags(
        before_tile=fake + "<row_{row}_col_{col}>",
        row_end="\n",
        after_windows="\n",
        before_thumbnail=fake + global_image,
        after_thumbnail=fake,
    )
    names = [name for name in vars(expected) if not name.endswith("_single")]
    pairs = {
        f"merger.tags.{n}": (repr(getattr(tags, n)), repr(getattr(expected, n))) for n in names
    }
    around = (template.image_prefix + template.image_suffix, template.image_token)
    pairs["template's text around an image"] = (repr(around[0]), repr(""))
    pairs["template.image_token"] = (repr(around[1]), repr(tokens["image_token"]))
    return tokens, differing(pairs)


def _notes(vlm: VLM) -> tuple[str, ...]:
    """Notes on how transformers reads images differently from the tiler."""
    tiler: Any = vlm.tiler
    notes = transparency_notes(tiler)
    if tiler.backend != "exact":
        notes.append(
            f"resampling: transformers' processor is hdvl's backend=exact, which is within 2/255 of "
            f"backend={tiler.backend}"
        )
    return tuple(notes)


def _has_num2words() -> bool:
    from transformers.utils import is_num2words_available

    return bool(is_num2words_available())


def _processor(vlm: VLM, kind: str, tokenizer: Any, chat_template: str) -> Any:
    from transformers import (
        Idefics3ImageProcessor,
        Idefics3Processor,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    tiler: Any = vlm.tiler
    filters = {name: number for number, name in FILTERS.items()}
    settings = {
        "size": {"longest_edge": tiler.longest_edge},
        "max_image_size": {"longest_edge": tiler.tile_size},
        "do_image_splitting": tiler.split,
        "resample": filters[tiler.resample],
        "image_mean": list(vlm.encoder.mean),
        "image_std": list(vlm.encoder.std),
    }
    rows, cols = vlm.bridge.out_grid
    options = {"image_seq_len": rows * cols, "chat_template": chat_template}
    if kind == "idefics3":
        return Idefics3Processor(Idefics3ImageProcessor(**settings), tokenizer, **options)
    video = {key: value for key, value in settings.items() if key != "do_image_splitting"}
    return SmolVLMProcessor(
        *(SmolVLMImageProcessor(**settings), tokenizer, SmolVLMVideoProcessor(**video)), **options
    )
