"""Asking a model: conversations with images in, text and boxes out."""

from hdvl.inference.answer import Answer, Numbers
from hdvl.inference.draw import draw_boxes, draw_tiles
from hdvl.inference.pipeline import Pipeline
from hdvl.inference.stream import AnswerStream

__all__ = [
    "Answer",
    "AnswerStream",
    "Numbers",
    "Pipeline",
    "draw_boxes",
    "draw_tiles",
]
