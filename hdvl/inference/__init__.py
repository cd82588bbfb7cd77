"""Asking a model: conversations with images in, text and boxes out."""

from hdvl.drawing import draw_boxes, draw_tiles
from hdvl.inference.answer import Answer, Numbers
from hdvl.inference.counters import Counters
from hdvl.inference.engine import Engine
from hdvl.inference.generation import Delta, Generation, ImageUsage, Request, Usage
from hdvl.inference.pipeline import Pipeline
from hdvl.inference.sampling import Guided, SamplingParams
from hdvl.inference.stream import AnswerStream

__all__ = [
    "Answer",
    "AnswerStream",
    "Counters",
    "Delta",
    "Engine",
    "Generation",
    "Guided",
    "ImageUsage",
    "Numbers",
    "Pipeline",
    "Request",
    "SamplingParams",
    "Usage",
    "draw_boxes",
    "draw_tiles",
]
