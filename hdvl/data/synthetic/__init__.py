"""Synthetic high-resolution documents with exact boxes, and questions about them."""

from hdvl.data.synthetic.documents import Document, SyntheticDocuments
from hdvl.data.synthetic.page import Field, Glyph
from hdvl.data.synthetic.questions import (
    Question,
    compare,
    count,
    locate,
    make_questions,
    read,
    transcribe,
)

__all__ = [
    "Document",
    "Field",
    "Glyph",
    "Question",
    "SyntheticDocuments",
    "make_questions",
    "compare",
    "count",
    "locate",
    "read",
    "transcribe",
]
