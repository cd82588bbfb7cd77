"""Draw the images of ``hdvl demo``, and write their questions and correct answers.

    python tools/make_demo_images.py

Writes ``hdvl/assets/*.png`` and ``hdvl/assets/demo.json``. Needs the fonts of ``hdvl[synthetic]``; the
images follow from the seed, which no training or evaluation uses.
"""

import json
from pathlib import Path

from hdvl.data.synthetic import Document, Field, SyntheticDocuments

ASSETS = Path(__file__).resolve().parent.parent / "hdvl" / "assets"
SEED = 777
SIZES = {"width": (896, 1000), "height": (700, 792), "entries": (9, 14), "font_size": (15, 18)}
IMAGES = (
    ("receipt", "receipt_dots", 0.0, "total"),
    ("invoice", "invoice", 0.0, "amount due"),
    ("form", "form_two_columns", 0.0, None),
    ("table", "boxed_table", 0.0, None),
    ("chart", "chart", 0.0, None),
    ("departures", "sign", 0.0, None),
    ("street", "street", 0.0, None),
    ("receipt_zh", "receipt", 1.0, "合计"),
    ("tag", "parcel_label", 0.0, None),
)
"""File name, kind, share of Chinese, and the name of the field to ask for (None: the middle one)."""
TRIED = 20
"""How many documents are drawn of which the one with the most fields is taken."""


def find(kind: str, chinese: float, name: str | None) -> tuple[Document, Field]:
    """The fullest of the first documents of the kind that have the field, and that field."""
    documents = SyntheticDocuments(seed=SEED, kinds=(kind,), chinese=chinese, fonts="many", **SIZES)
    found = list[tuple[Document, list[Field]]]()
    for document in (documents[number] for number in range(TRIED)):
        fields = [field for field in document.fields if name in (None, field.name)]
        if fields:
            found.append((document, fields))
    if not found:
        raise LookupError(f"none of {TRIED} documents of the kind {kind} has the field {name}")
    document, fields = max(found, key=lambda one: len(one[0].fields))
    return document, fields[len(fields) // 2]


def main() -> None:
    ASSETS.mkdir(exist_ok=True)
    cases = []
    for file, kind, chinese, name in IMAGES:
        document, field = find(kind, chinese, name)
        document.image.quantize(64).save(ASSETS / f"{file}.png", optimize=True)
        cases.append({"image": f"{file}.png", "question": field.question, "answer": field.value})
        if file in ("receipt", "departures"):
            where = f"Where is the {field.name}?"
            box = [round(edge, 1) for edge in field.box]
            case = {"image": f"{file}.png", "question": where, "answer": field.value, "box": box}
            cases.append(case)
    text = json.dumps(cases, indent=2, ensure_ascii=False)
    (ASSETS / "demo.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(IMAGES)} images, {len(cases)} questions in {ASSETS}")


if __name__ == "__main__":
    main()
