"""``hdvl tile``: output, drawings and errors."""

import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hdvl import tile
from hdvl.config import compose, resolve
from hdvl.inference.summary import image_line
from hdvl.tilers import SlidingWindow


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A grey image of 640 x 480, stored lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    Image.new("RGB", (480, 640), (120, 120, 120)).save(path, exif=exif)
    return path


def run(*overrides: str) -> None:
    tile.run(resolve(compose(*overrides, config_name="tile")))


def test_a_plan_without_windows_says_thumbnail_alone() -> None:
    complete = SlidingWindow(tile_size=64, stride=64, thumbnail="last").plan(200, 100)
    alone = complete.subset(())
    assert image_line(1, alone) == "image  1: 200x100 px, 1 tile of 64 px (thumbnail alone)"
    assert image_line(1, complete).endswith("+ thumbnail)")
    said = tile.describe(alone, SlidingWindow(tile_size=64, stride=64))
    assert "SlidingWindow: thumbnail alone, stride" in said and "0 x 0" not in said
    assert "tiles    1; each shows" in said


def test_lists_and_draws(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tiles.png"
    run(f"image={photo}", f"out={out}", "tiler=dynamic_ratio", "tiler.max_tiles=12")
    printed = capsys.readouterr().out
    assert "image    640 x 480" in printed
    assert "DynamicRatio: 3 rows x 4 cols of 448 px, stride 448, canvas 1792 x 1344" in printed
    assert "tiles    13, 12 windows and the thumbnail last" in printed
    assert "    5  row 1 col 1   x 160 .. 320, y 160 .. 320" in printed
    assert "   12  thumbnail     x 0 .. 640, y 0 .. 480" in printed
    assert "not counted without an encoder" in printed
    assert "scaled   to 280%\n" in printed and "shrunk" not in printed
    with Image.open(out) as drawn:
        pixels = np.asarray(drawn)
        assert drawn.width > 1600 + 160 and drawn.height > 1200  # the thumbnail stands beside
    canvas = pixels[16 : 16 + 1200, 16 : 16 + 1600]
    changed = (canvas != 120).any(2)
    for top, left in product((0, 400, 800), (0, 400, 800, 1200)):
        assert changed[top : top + 8, left + 8 : left + 390].any(0).all()
        assert changed[top + 8 : top + 390, left : left + 8].any(1).all()
    assert not changed[450:780, 450:780].any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "tiles.png"]


def test_counts_tokens_as_the_merger_does(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"out={tmp_path / 'tiles.png'}"
    run(f"image={photo}", out, "encoder=conv_stem", "tiler.stride=224")
    from hdvl.config import build

    encoder = build(compose("encoder=conv_stem", config_name="tile").encoder)
    rows, cols = encoder.grid
    assert f"tokens   {10 * rows * cols}\n" in capsys.readouterr().out


def test_shows_the_text_between_the_tokens(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        f"image={photo}",
        f"out={tmp_path / 'tiles.png'}",
        "encoder=conv_stem",
        "tiler=dynamic_ratio",
        "tiler.tile_size=224",
        "tiler.max_tiles=2",
        "tiler.min_tiles=2",
        "merger.tags.before_tile='<r{row}c{col}>'",
        "merger.tags.before_thumbnail='<global>'",
    )
    printed = capsys.readouterr().out
    assert "tokens   2352\nprompt   <r1c1>[784]<r1c2>[784]<global>[784]\n" in printed


@pytest.mark.slow
def test_takes_the_parts_of_a_named_composition(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        f"image={photo}", f"out={tmp_path / 'tiles.png'}", "model=smolvlm", "tiler.longest_edge=512"
    )
    printed = capsys.readouterr().out
    assert "prompt   <fake_token_around_image><global-img>[64]<fake_token_around_image>" in printed
    run(
        f"image={photo}",
        f"out={tmp_path / 'tiles.png'}",
        "model=smolvlm",
        "tiler.longest_edge=1024",
    )
    printed = capsys.readouterr().out
    assert "tokens   320\nprompt   <fake_token_around_image><row_1_col_1>[64]<fake" in printed
    assert "<row_2_col_2>[64]\\n\\n<fake_token_around_image><global-img>[64]<fake" in printed


@pytest.mark.slow
def test_says_what_shrinks_pads_and_distorts_and_lays_out_the_tiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, contact = (tmp_path / name for name in ("big.png", "tiles.png", "contact.png"))
    Image.new("RGB", (2000, 1500), (250, 250, 250)).save(path)

    def said(*words: str) -> str:
        run(f"image={path}", f"out={out}", *words)
        return capsys.readouterr().out

    printed = said("tiler.max_tiles=16", f"contact={contact}")
    # After the list of tiles, which may be longer than the screen.
    assert re.search(r"  12  .*\nshrunk   to 40% by tiler.max_tiles=16\ntokens", printed)
    assert f"drawn    {contact}" in printed
    with Image.open(contact) as sheet:
        assert sheet.width > 4 * 224 and sheet.height > 3 * 224
    assert "shrunk" not in said("tiler.max_tiles=100")
    printed = said("tiler=squash", "tiler.tile_size=448")
    assert "scaled   to 22% x 30%, 33% higher than it is" in printed
    assert "shrunk   to 22% by tiler.tile_size=448" in printed
    assert "padded 83 px above, 84 px below" in said("tiler=anyres")
    assert "shrunk   to 55% by tiler.longest_edge=1000" in said(
        "tiler=longest_edge", "tiler.longest_edge=1000"
    )
    printed = said("tiler.skip_blank=true", "tiler.max_tiles=16")
    assert "blank    12 of 12 windows are left out" in printed
    with pytest.raises(ValueError, match=r"contact=.*big.png would overwrite the image"):
        said(f"contact={path}")


def test_a_large_image_is_drawn_smaller(tmp_path: Path) -> None:
    path, out = tmp_path / "big.jpg", tmp_path / "tiles.png"
    Image.new("RGB", (3000, 1500)).save(path)
    run(f"image={path}", f"out={out}", "draw_size=300")
    with Image.open(out) as drawn:
        assert 300 < drawn.width < 640 and 150 < drawn.height < 400


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize(
    "tiler",
    [
        *("sliding_window", "xverse_v", "dynamic_ratio", "anyres", "squash"),
        *("native", "native_tiles", "longest_edge"),
    ],
)
def test_extreme_images(size: tuple[int, int], tiler: str, tmp_path: Path) -> None:
    path, out = tmp_path / "line.png", tmp_path / "tiles.png"
    Image.new("RGB", size).save(path)
    run(f"image={path}", f"out={out}", f"tiler={tiler}")
    assert out.exists()


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "image must be given: hdvl tile image=PATH"),
        (["image={photo}", "out={photo}"], "would overwrite the image; give another out=PATH"),
        (
            ["image={photo}", "out={photo}.out", "encoder=conv_stem", "tiler=internvl_1_5"],
            "tiler.tile_size=448 must equal the encoder's tile_size=224",
        ),
        (
            [
                "image={photo}",
                "encoder=conv_stem",
                "encoder.tile_size=64",
                "tiler.tile_size=64",
                "bridge=pixel_shuffle_mlp",
                "bridge.order=v1",
                "merger=spatial",
                "tiler.stride=64",
            ],
            "bridge PixelShuffleMLP with order=v1 gives tokens that are not in raster order",
        ),
        (["image={text}"], r"text\.txt is not an image Pillow can read"),
    ],
)
def test_refuses(overrides: list[str], message: str, photo: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words")
    with pytest.raises(ValueError, match=message):
        run(*(override.format(photo=photo, text=text) for override in overrides))


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "tiles.png"
    out.write_bytes(b"before")

    def half(self: Any, path: Path, *args: Any, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        tile.save(Image.new("RGB", (2, 2)), out)
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_from_the_command_line(root: Path, tmp_path: Path) -> None:
    """An error is one line and exit code 1; nothing is left behind but the drawing."""
    path = tmp_path / "a.png"
    Image.new("RGB", (300, 300)).save(path)
    command = [sys.executable, "-m", "hdvl.tile", f"image={path.name}"]
    environment = {"PYTHONPATH": str(root), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "drawn    tiles.png" in done.stdout
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.png", "tiles.png"]
    path.write_bytes(b"")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "hdvl tile: image a.png is empty (0 bytes)\n"


def test_planning_imports_no_torch_of_its_own(root: Path) -> None:
    """Only the modules that compute pixels import torch, and they are imported lazily."""
    for path in (root / "hdvl" / "tilers").glob("*.py"):
        lines = path.read_text().splitlines()
        top = [line for line in lines if line.startswith(("import torch", "from torch"))]
        assert not top or path.name in ("pixels.py", "decode.py"), path
        assert not any(line.startswith("from hdvl.tilers import pixels") for line in lines), path
