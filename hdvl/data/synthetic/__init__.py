"""Synthetic high-resolution documents with exact boxes, and questions about them."""

from hdvl.data.synthetic.documents import SyntheticDocuments
from hdvl.data.synthetic.looks import turned
from hdvl.data.synthetic.page import Document, Field, Glyph
from hdvl.data.synthetic.questions import (
    Question,
    absent,
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
    "absent",
    "make_questions",
    "compare",
    "count",
    "locate",
    "read",
    "transcribe",
    "turned",
]
