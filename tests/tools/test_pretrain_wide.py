"""The tool that trains encoder and bridge on many fonts and worn pages."""

import random
from pathlib import Path
from types import SimpleNamespace

import pretrain_wide
import pytest
import torch
from pretrain_wide import LINES, Heads, Wide, add_lines, dense_page, some_text

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.sources import ASSETS
from hdvl.data.synthetic.cells import classes
from hdvl.encoders import ConvStem


def test_pages_are_dense_and_have_labels_for_all_their_characters() -> None:
    document = dense_page("1/2")
    assert document.image.size == (256, 256) and len(document.glyphs) > 100
    assert {glyph.char for glyph in document.glyphs} <= set(classes())
    texts = [some_text(random.Random(n), language) for n in range(300) for language in ("en", "zh")]
    assert set("".join(texts)) - {" "} <= set(classes())


@pytest.mark.parametrize("index", range(4))
def test_every_tile_has_labels_of_its_size(index: int) -> None:
    tile, cells, tokens, boxes, clean = Wide(1)[index]
    assert tile.shape == (3, 224, 224) and cells.shape == (784,)
    assert tokens.shape == (196, 4) and boxes.shape == (196, 4)
    assert torch.equal(tokens[:, 0] > 0, boxes[:, 0].isfinite())
    assert bool(clean) == (index == 0)


def test_heads_are_right_about_what_they_are_told() -> None:
    heads, kinds = Heads(4, 4), 1 + len(classes())
    with torch.no_grad():
        for part in heads.parameters():
            part.zero_()
        heads.cells.bias[7] = heads.tokens.bias[7] = 50.0
        heads.tokens.bias[kinds::kinds] = 50.0
        heads.boxes.bias += 0.5
    tokens = torch.tensor([[[7, 0, 0, 0]]])
    cells, boxes = torch.full((1, 2), 7), torch.full((1, 1, 4), 0.5)
    with torch.no_grad():
        losses, right = heads(torch.randn(1, 2, 4), torch.randn(1, 1, 4), cells, tokens, boxes)
    assert all(float(loss) < 1e-6 for loss in losses.values())
    assert all(float(share) == 1 for share in right.values())


def test_added_lines_change_nothing_at_first() -> None:
    options = {"stem_width": 32, "width": 32, "depth": 1, "lines": 0}
    vlm = SimpleNamespace(encoder=ConvStem(**options).eval())
    config = {"model": {"encoder": {"_target_": "hdvl.encoders.ConvStem", **options}}}
    tiles = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        before, depth = vlm.encoder(tiles), len(vlm.encoder.layers)
        add_lines(vlm, config)
        torch.testing.assert_close(vlm.encoder(tiles), before)
    assert len(vlm.encoder.layers) == depth + LINES
    assert config["model"]["encoder"]["lines"] == LINES
    wider = vlm.encoder
    add_lines(vlm, config)
    assert vlm.encoder is wider, "they are added once"


@pytest.mark.slow
def test_encoder_and_bridge_learn_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"init-from": ASSETS / "small", "out": tmp_path / "read", "steps": 3, "batch": 1}
    options |= {"threads": 1, "heads-first": 1}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["pretrain_wide.py", *words])
    pretrain_wide.main()
    before, after = (load_folder(f).state_dict() for f in (ASSETS / "small", tmp_path / "read"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"encoder", "bridge"}
    assert not any("running" in name for name in changed), "batch norms stay as they are"
