"""``hdvl tile``: lists and draws the tiles of an image, and counts its visual tokens."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdvl.command import command
from hdvl.config import build
from hdvl.files import atomic_write
from hdvl.geometry import token_count

if TYPE_CHECKING:
    from PIL import Image

    from hdvl.geometry import Layout, TilePlan

LIMITS = ("max_tiles", "max_patches", "longest_edge", "max_edge")
"""Arguments of tilers that bound how much of an image's resolution is kept."""


def describe(plan: "TilePlan", tiler: Any) -> str:
    """Return a description of the plan, with one line for each tile."""
    shrunk = shrunk_by(plan, tiler)
    windows = len(plan.windows)
    thumbnail = (
        f", {windows} windows and the thumbnail {plan.thumbnail}"
        if plan.thumbnail and windows
        else ""
    )
    sizes = {view.size for view in plan.views if not view.is_thumbnail}
    shown = (
        f"{plan.tile_size} px" if plan.is_grid else " and ".join(f"{w} x {h} px" for w, h in sizes)
    )
    grid = f"{plan.rows} rows x {plan.cols} cols of {shown}" if windows else "thumbnail alone"
    lines = [
        f"image    {plan.width} x {plan.height}",
        f"tiler    {type(tiler).__name__}: {grid}, stride {plan.stride}, "
        f"canvas {plan.canvas[0]} x {plan.canvas[1]}",
        describe_scaling(plan),
        f"tiles    {plan.count}{thumbnail}; each shows of the image",
    ]
    for index, view in enumerate(plan.views):
        place = "thumbnail" if view.is_thumbnail else f"row {view.row} col {view.col}"
        if view.size != (plan.tile_size, plan.tile_size):
            place += f" {view.size[0]}x{view.size[1]}"
        x0, y0, x1, y1 = (f"{value:.0f}" for value in view.box)
        lines.append(f"  {index:>3}  {place:<13} x {x0} .. {x1}, y {y0} .. {y1}")
    # Last, because a long list of tiles would scroll it off the screen.
    return "\n".join([*lines, shrunk] if shrunk else lines)


def scale_of(plan: "TilePlan") -> tuple[float, float]:
    """Return the horizontal and vertical scale of the image on the canvas; 1.0 is its original size."""
    x0, y0, x1, y1 = plan.content
    left, top, right, bottom = plan.source_frame
    return (x1 - x0) / (right - left), (y1 - y0) / (bottom - top)


def describe_scaling(plan: "TilePlan") -> str:
    """Return a line about how the image is scaled, padded and cropped on the canvas."""
    across, down = scale_of(plan)
    text = f"{across:.0%}" if f"{across:.0%}" == f"{down:.0%}" else f"{across:.0%} x {down:.0%}"
    if max(across, down) > 1.02 * min(across, down):
        wider = "wider" if across > down else "higher"
        text += f", {max(across, down) / min(across, down) - 1:.0%} {wider} than it is"
    x0, y0, x1, y1 = plan.content
    sides = {"left": x0, "right": plan.canvas[0] - x1, "above": y0, "below": plan.canvas[1] - y1}
    for word, sign in (("padded", 1), ("cropped", -1)):
        found = [f"{sign * size} px {side}" for side, size in sides.items() if sign * size > 0]
        text += f", {word} {', '.join(found)}" if found else ""
    return f"scaled   to {text}"


def shrunk_by(plan: "TilePlan", tiler: Any) -> str:
    """Return a line about the option of the tiler that shrinks the image; empty if it is not shrunk."""
    shown = min(scale_of(plan))
    if shown > 0.99:
        return ""
    for name in LIMITS:
        value = getattr(tiler, name, None)
        if not isinstance(value, int) or not hasattr(type(tiler), "__dataclass_fields__"):
            continue
        if name not in type(tiler).__dataclass_fields__:
            continue
        wider = replace(tiler, **{name: value * 100})
        if min(scale_of(wider.plan(plan.width, plan.height))) > 1.02 * shown:
            return f"shrunk   to {shown:.0%} by tiler.{name}={value}"
    return f"shrunk   to {shown:.0%} by tiler.tile_size={plan.tile_size}"


def fitted_parts(cfg: Mapping[str, Any], tiler: Any) -> tuple[Any, Any]:
    """Return the tiler with the sizes that it takes from the encoder, and the merger.

    The encoder and the bridge are built on the ``meta`` device.
    """
    import torch

    from hdvl.meta import on_meta
    from hdvl.probe import check_layouts, check_token_order, fitted_tiler, trial_plans

    encoder = on_meta(cfg["encoder"])
    with torch.device("meta"):
        # The number of tokens does not depend on the width of the language model.
        bridge = on_meta(cfg["bridge"])(in_width=encoder.width, out_width=64, grid=encoder.grid)
        merger = on_meta(cfg["merger"])(
            grid=encoder.grid, grid_for=encoder.grid_for, out_grid=bridge.grid_for, width=64
        )
    check_token_order(bridge, merger)
    tiler = fitted_tiler(tiler, encoder, bridge)
    check_layouts(trial_plans(tiler), merger)
    return tiler, merger


def describe_layout(layout: "Layout") -> str:
    """Return the number of visual tokens and, if the layout contains text, the text of the prompt."""
    count = f"tokens   {token_count(layout)}"
    if all(isinstance(piece, int) for piece in layout):
        return count
    pieces = (piece if isinstance(piece, str) else f"[{piece}]" for piece in layout)
    # Newlines and other control characters are shown as escapes, as in YAML.
    text = "".join(pieces).encode("unicode_escape").decode("ascii")
    return f"{count}\nprompt   {text}"


def save(image: "Image.Image", path: Path) -> None:
    """Write a PNG file atomically."""
    with atomic_write(path) as part:
        image.save(part, "PNG", compress_level=1)


def plan_of(tiler: Any, image: Path, size: tuple[int, int]) -> "TilePlan":
    """Return the plan for an image of ``size``; with ``skip_blank`` it depends on the pixels."""
    complete: TilePlan = tiler.plan(*size)
    if not getattr(tiler, "skip_blank", False):
        return complete
    plan: TilePlan = tiler(image).plan
    print(f"blank    {complete.count - plan.count} of {len(complete.windows)} windows are left out")
    return plan


def run(cfg: Mapping[str, Any]) -> None:
    """Print the tiles and the tokens of an image, and write the drawings.

    Raises:
        ValueError: a key is missing or wrong, or the parts do not fit together.
        OSError: the image cannot be read, or a drawing cannot be written.
    """
    from hdvl.drawing import draw_canvas
    from hdvl.images import MAX_PIXELS, open_image, orientation, upright_rgb

    if cfg["image"] is None:
        raise ValueError("image must be given: hdvl tile image=PATH")
    source, out = Path(cfg["image"]), Path(cfg["out"])
    for key in ("out", "contact"):
        path = None if cfg[key] is None else Path(cfg[key])
        if path is not None and path.exists() and path.samefile(source):
            raise ValueError(f"{key}={path} would overwrite the image; give another {key}=PATH")
    name, exif = str(source), cfg["tiler"].get("exif", True)
    image = open_image(source, max_pixels=cfg["tiler"].get("max_pixels", MAX_PIXELS))
    transposed = exif and orientation(image, name=name) >= 5
    width, height = reversed(image.size) if transposed else image.size
    tiler, merger = build(cfg["tiler"]), None
    if cfg.get("encoder") is not None:
        tiler, merger = fitted_parts(cfg, tiler)
    plan = plan_of(tiler, source, (width, height))
    print(describe(plan, tiler))
    if merger is None:
        print(
            "tokens   not counted without an encoder; add model=small, another model=, or an encoder="
        )
    else:
        print(describe_layout(merger.layout(plan)))
    # Large JPEG files are decoded at a lower resolution, which is enough for the drawing.
    scale = min(1.0, 4 * cfg["draw_size"] / max(image.size))
    image.draft("RGB", (round(image.width * scale), round(image.height * scale)))
    background = cfg["tiler"].get("background", (255, 255, 255))
    upright = upright_rgb(
        image, name=name, exif=exif, background=background, srgb=cfg["tiler"].get("srgb", False)
    )
    padding = cfg["tiler"].get("padding", (0, 0, 0))
    colour = (128, 128, 128) if isinstance(padding, str) else tuple(padding)
    save(draw_canvas(upright, plan, padding=colour, draw_size=cfg["draw_size"]), out)
    print(f"drawn    {out}")
    if cfg["contact"] is not None:
        save(tiler(source).contact_sheet(), Path(cfg["contact"]))
        print(f"drawn    {cfg['contact']}")


def main() -> None:
    """Run the command."""
    command("tile", run)


if __name__ == "__main__":
    main()
