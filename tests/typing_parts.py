"""Assignments of every part to its protocol, for mypy (pyproject.toml names this file besides hdvl).

Nothing is built: a function says "given one of these, it is one of those". ``test_conf.py`` checks
that each class that a part's YAML names stands here.
"""

from functools import partial

from hdvl import bridges, checkpoints, encoders, llms, mergers, templates, tilers
from hdvl.protocols import (
    LLM,
    BoxCodec,
    Bridge,
    BridgeFactory,
    Encoder,
    Merger,
    MergerFactory,
    Template,
    Tiler,
)


def all_tilers(
    sliding_window: tilers.SlidingWindow,
    dynamic_ratio: tilers.DynamicRatio,
    anyres: tilers.AnyRes,
    squash: tilers.Squash,
    native: tilers.Native,
    native_tiles: tilers.NativeTiles,
    longest_edge: tilers.LongestEdge,
) -> list[Tiler]:
    return [sliding_window, dynamic_ratio, anyres, squash, native, native_tiles, longest_edge]


def all_encoders(
    open_clip: encoders.OpenCLIPEncoder,
    timm: encoders.TimmEncoder,
    transformers: encoders.TransformersEncoder,
    conv_stem: encoders.ConvStem,
    fused: encoders.FusedEncoder,
    intern_vit: encoders.InternViT,
    qwen_vit: encoders.QwenViT,
) -> list[Encoder]:
    return [open_clip, timm, transformers, conv_stem, fused, intern_vit, qwen_vit]


def all_bridges(
    mlp: bridges.MLP,
    pixel_shuffle_mlp: bridges.PixelShuffleMLP,
    resampler: bridges.Resampler,
    pooling: bridges.Pooling,
) -> list[Bridge]:
    return [mlp, pixel_shuffle_mlp, resampler, pooling]


def all_mergers(
    concat: mergers.Concat, spatial: mergers.Spatial, overlap_blend: mergers.OverlapBlend
) -> list[Merger]:
    return [concat, spatial, overlap_blend]


def all_llms(causal_lm: llms.CausalLM) -> list[LLM]:
    return [causal_lm]


def all_templates(
    chatml: templates.ChatML,
    hermes2: templates.Hermes2,
    xverse: templates.Xverse,
    plain: templates.Plain,
    tokenizer: templates.TokenizerTemplate,
) -> list[Template]:
    return [chatml, hermes2, xverse, plain, tokenizer]


def all_codecs(
    norm1000: templates.Norm1000, unit: templates.Unit, absolute: templates.Absolute
) -> list[BoxCodec]:
    return [norm1000, unit, absolute]


def parts_from_folders() -> tuple[Encoder, LLM]:
    return checkpoints.encoder_from(folder="hdvl/small"), checkpoints.llm_from(folder="hdvl/small")


BRIDGE_FACTORIES: list[BridgeFactory] = [
    bridges.MLP,
    bridges.PixelShuffleMLP,
    bridges.Resampler,
    bridges.Pooling,
    partial(checkpoints.bridge_from, folder="hdvl/small"),
]

MERGER_FACTORIES: list[MergerFactory] = [
    mergers.Concat,
    mergers.Spatial,
    mergers.OverlapBlend,
    partial(checkpoints.merger_from, folder="hdvl/small"),
]
