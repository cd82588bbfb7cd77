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
IMAGES = (
    ("receipt", "receipt", 0.0, "total"),
    ("form", "form", 0.0, None),
    ("table", "table", 0.0, None),
    ("chart", "chart", 0.0, None),
    ("departures", "sign", 0.0, None),
    ("street", "street", 0.0, None),
    ("receipt_zh", "receipt", 1.0, "合计"),
    ("tag", "tag", 0.0, None),
)
"""File name, kind, share of Chinese, and the name of the field to ask for (None: the middle one)."""


def find(kind: str, chinese: float, name: str | None) -> tuple[Document, Field]:
    """The first document of the kind that has the field."""
    documents = SyntheticDocuments(seed=SEED, kinds=(kind,), chinese=chinese)
    for index in range(1000):
        document = documents[index]
        fields = [field for field in document.fields if name in (None, field.name)]
        if fields:
            return document, fields[len(fields) // 2]
    raise LookupError(f"no {kind} with a field {name}")


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
