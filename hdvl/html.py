"""Self-contained HTML pages with embedded images."""

import base64
import html
import io
from pathlib import Path

from PIL import Image

from hdvl.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #222; background: #fff }
section { border-top: 1px solid #ccc; padding: 1rem 0 }
img { max-width: 100%; height: auto; border: 1px solid #ccc }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 0 0 1rem }
dt { color: #666 } dd { margin: 0; overflow-wrap: anywhere }
.right { color: #17702f } .wrong { color: #b3202a } .numbers { color: #666 }
"""


def write_html(path: Path, *, title: str, body: str) -> Path:
    """Write a page with the HTML ``body`` and the common style.

    The file is written to a temporary name and renamed; an interrupted write leaves the old file.
    """
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}</html>\n"
    )
    write_text(path, page)
    return path


def embedded(image: Image.Image) -> str:
    """An image as the value of ``src``."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
