"""Removal of blank windows from a plan, so that they take no tokens."""

from hdvl.protocols import Tiles
from hdvl.views import groups, join_pixels, view_pixels


def without_blank(tiles: Tiles, tolerance: int = 0) -> Tiles:
    """Return ``tiles`` without the windows whose pixels differ by at most ``tolerance`` in every channel.

    The thumbnail is always kept. If all windows are blank and there is no thumbnail, the first window is
    kept.
    """
    plan = tiles.plan
    views = view_pixels(tiles.pixels, plan)
    kept = []
    for index, view in enumerate(views[plan.window_slice]):
        darkest, lightest = view.amin(dim=(1, 2)).int(), view.amax(dim=(1, 2)).int()
        if int((lightest - darkest).max()) > tolerance:
            kept.append(index)
    if not kept and plan.thumbnail is None:
        kept = [0]
    if len(kept) == len(plan.windows):
        return tiles
    start = plan.window_slice.start
    numbers = {start + index for index in kept} | {plan.thumbnail_index}
    remaining = [view[None] for number, view in enumerate(views) if number in numbers]
    pixels = join_pixels([groups(tiles.pixels)[0][:0], *remaining])
    return Tiles(pixels, plan.subset(kept))
