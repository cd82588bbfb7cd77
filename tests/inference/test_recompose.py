"""Loaded models with parts replaced."""

from typing import Any

import numpy as np
import pytest
import torch

import hdvl
from hdvl.checkpoints import save_folder
from hdvl.config import to_plain

TIMM = {
    "_target_": "hdvl.encoders.TimmEncoder",
    "name": "vit_tiny_patch16_224",
    "tile_size": 48,
    "config": {"depth": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    cfg = hdvl.compose(
        "llm=tiny", "bridge=mlp", "merger=concat", "encoder=conv_stem", "encoder.tile_size=64",
        "tiler=dynamic_ratio", "tiler.tile_size=64", "tiler.max_tiles=2",
    )  # fmt: skip
    place = tmp_path_factory.mktemp("recompose") / "model"
    return save_folder(hdvl.build(cfg.model).eval(), place, to_plain(cfg))


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)


def test_a_new_encoder_by_one_override(folder: Any) -> None:
    """The language model keeps its weights, the tiler takes the new tile size, and new parts are reported."""
    before = hdvl.load(folder)
    with pytest.warns(
        UserWarning, match="new parts in the model .* encoder, bridge start from .* random"
    ):
        pipe = hdvl.load(folder, encoder=TIMM)
    assert type(pipe.model.encoder).__name__ == "TimmEncoder"
    assert pipe.model.tiler.tile_size == 48
    old, new = before.model.llm.state_dict(), pipe.model.llm.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert pipe.chat("What is it?", images=[photo()], max_new_tokens=2).numbers.tiles == 3


@pytest.mark.slow
def test_a_bridge_that_still_fits_keeps_its_weights(folder: Any) -> None:
    before = hdvl.load(folder)
    width = before.model.encoder.width
    other = {**TIMM, "tile_size": 64, "config": {"depth": 1, "embed_dim": width, "num_heads": 2}}
    with pytest.warns(UserWarning, match="new parts .*: encoder start from"):
        pipe = hdvl.load(folder, encoder=other, tiler={"max_tiles": 4})
    assert pipe.model.tiler.max_tiles == 4
    old, new = before.model.bridge.state_dict(), pipe.model.bridge.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.slow
def test_a_tiler_follows_with_its_overlap(folder: Any) -> None:
    window = {
        "_target_": "hdvl.tilers.SlidingWindow",
        "tile_size": 96,
        "stride": 72,
        "multiple_of": 24,
    }
    pipe = hdvl.load(folder, tiler=window, tiler_follows=True)
    step = 64 // pipe.model.encoder.grid[1]
    assert (pipe.tiler.tile_size, pipe.tiler.multiple_of) == (64, step)
    assert pipe.tiler.stride == 48 // step * step
    old, new = hdvl.load(folder).model.state_dict(), pipe.model.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


def test_parts_that_do_not_fit_are_refused(folder: Any) -> None:
    with pytest.raises(
        ValueError, match=r"tiler.tile_size=64 must equal the encoder's tile_size=48"
    ):
        hdvl.load(folder, encoder=TIMM, tiler={"max_tiles": 1})
