"""Drawings of boxes, tiles, weights and the canvas that a model receives. Nothing here imports torch."""

from hdvl.drawing.boxes import COLOURS, draw_boxes
from hdvl.drawing.heat import draw_heat
from hdvl.drawing.notebook import DrawableTiles
from hdvl.drawing.tiles import contact_sheet, draw_canvas, draw_tiles, view_names

__all__ = [
    "COLOURS",
    "DrawableTiles",
    "contact_sheet",
    "draw_boxes",
    "draw_canvas",
    "draw_heat",
    "draw_tiles",
    "view_names",
]
