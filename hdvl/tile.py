"""``hdvl tile``: draw the tiles of an image on it, list what each shows, count the tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdvl.command import command
from hdvl.config import build
from hdvl.files import atomic_write
from hdvl.geometry import token_count

if TYPE_CHECKING:
    from PIL import Image

    from hdvl.geometry import Layout, TilePlan


def describe(plan: "TilePlan", tiler: str) -> str:
    """The plan in words: one line a tile."""
    windows = len(plan.windows)
    thumbnail = f", {windows} windows and the thumbnail {plan.thumbnail}" if plan.thumbnail else ""
    sizes = {view.size for view in plan.views if not view.is_thumbnail}
    shown = (
        f"{plan.tile_size} px" if plan.is_grid else " and ".join(f"{w} x {h} px" for w, h in sizes)
    )
    lines = [
        f"image  {plan.width} x {plan.height}",
        f"tiler    {tiler}: {plan.rows} rows x {plan.cols} cols of {shown}, "
        f"stride {plan.stride}, canvas {plan.canvas[0]} x {plan.canvas[1]}",
        f"tiles    {plan.count}{thumbnail}; each shows of the image",
    ]
    for index, view in enumerate(plan.views):
        place = "thumbnail" if view.is_thumbnail else f"row {view.row} col {view.col}"
        if view.size != (plan.tile_size, plan.tile_size):
            place += f" {view.size[0]}x{view.size[1]}"
        x0, y0, x1, y1 = (f"{value:.6g}" for value in view.box)
        lines.append(f"  {index:>3}  {place:<13} x {x0} .. {x1}, y {y0} .. {y1}")
    return "\n".join(lines)


def layout_of(cfg: Mapping[str, Any], tiler: Any, plan: "TilePlan") -> "Layout":
    """What the prompt holds for the image, by the merger; the parts get no weights and no memory."""
    import torch

    from hdvl.meta import on_meta
    from hdvl.probe import check_token_order
    from hdvl.views import check_views

    encoder = on_meta(cfg["encoder"])
    check_views(tiler, encoder)
    with torch.device("meta"):
        # The width of the language model does not matter to the count.
        bridge = on_meta(cfg["bridge"])(in_width=encoder.width, out_width=64, grid=encoder.grid)
        merger = on_meta(cfg["merger"])(
            grid=encoder.grid, grid_for=encoder.grid_for, out_grid=bridge.grid_for, width=64
        )
    check_token_order(bridge, merger)
    layout: Layout = merger.layout(plan)
    return layout


def describe_layout(layout: "Layout") -> str:
    """The number of visual tokens and, where text stands between them, what the prompt holds."""
    count = f"tokens   {token_count(layout)}"
    if all(isinstance(piece, int) for piece in layout):
        return count
    pieces = (piece if isinstance(piece, str) else f"[{piece}]" for piece in layout)
    # Newlines and the like are shown as they are written in YAML.
    text = "".join(pieces).encode("unicode_escape").decode("ascii")
    return f"{count}\nprompt   {text}"


def save(image: "Image.Image", path: Path) -> None:
    """Write a PNG whole or not at all."""
    with atomic_write(path) as part:
        image.save(part, "PNG", compress_level=1)


def run(cfg: Mapping[str, Any]) -> None:
    """Do what the config says. Raises ``ValueError`` and ``OSError`` with a readable message."""
    from hdvl.images import MAX_PIXELS, open_image, orientation, upright_rgb
    from hdvl.inference.draw import draw_tiles

    if cfg["image"] is None:
        raise ValueError("no image given; say hdvl tile image=PATH")
    source, out = Path(cfg["image"]), Path(cfg["out"])
    if out.exists() and out.samefile(source):
        raise ValueError(f"out={out} would overwrite the image; give another out=PATH")
    name, exif = str(source), cfg["tiler"].get("exif", True)
    image = open_image(source, max_pixels=cfg["tiler"].get("max_pixels", MAX_PIXELS))
    lying = exif and orientation(image, name=name) >= 5
    width, height = reversed(image.size) if lying else image.size
    tiler = build(cfg["tiler"])
    plan = tiler.plan(width, height)
    print(describe(plan, type(tiler).__name__))
    if cfg.get("encoder") is None:
        print("tokens   not counted without an encoder; add model=... or encoder=...")
    else:
        print(describe_layout(layout_of(cfg, tiler, plan)))
    scale = min(1.0, cfg["draw_size"] / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in (width, height))
    image.draft("RGB", (round(image.width * scale), round(image.height * scale)))
    background = cfg["tiler"].get("background", (255, 255, 255))
    upright = upright_rgb(image, name=name, exif=exif, background=background)
    save(draw_tiles(upright.resize((size[0], size[1])), plan), out)
    print(f"drawn    {out}")


def main() -> None:
    """List and draw the tiles of an image."""
    command("tile", run)


if __name__ == "__main__":
    main()
