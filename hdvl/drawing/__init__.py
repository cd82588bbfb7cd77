"""Drawings on images: boxes with labels, tiles, and the canvas that a model gets. Nothing imports torch."""

from hdvl.drawing.boxes import COLOURS, draw_boxes
from hdvl.drawing.notebook import ShownTiles
from hdvl.drawing.tiles import contact_sheet, draw_canvas, draw_tiles, view_names

__all__ = [
    "COLOURS",
    "ShownTiles",
    "contact_sheet",
    "draw_boxes",
    "draw_canvas",
    "draw_tiles",
    "view_names",
]
