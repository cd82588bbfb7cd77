"""Synthetic high-resolution documents with exact boxes, and questions about them."""

from hdvl.data.synthetic.documents import Document, SyntheticDocuments
from hdvl.data.synthetic.page import Field, Glyph
from hdvl.data.synthetic.questions import (
    Question,
    ask,
    compare,
    count,
    locate,
    read,
    transcribe,
)

__all__ = [
    "Document",
    "Field",
    "Glyph",
    "Question",
    "SyntheticDocuments",
    "ask",
    "compare",
    "count",
    "locate",
    "read",
    "transcribe",
]
