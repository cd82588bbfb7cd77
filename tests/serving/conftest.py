"""A server of a tiny model, in this process."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from hdvl.inference import Pipeline
from tests.tiny_model import tiny_vlm


def png(width: int = 90, height: int = 60, grey: int = 128) -> bytes:
    """The file of a plain image."""
    held = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, 255 - grey)).save(held, "PNG")
    return held.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    """A file as a URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def question(text: str = "What?", url: str | None = None, **options: Any) -> dict[str, Any]:
    """The body of a request about one image."""
    image = {"type": "image_url", "image_url": {"url": url or data_url(png())}}
    content = [image, {"type": "text", "text": text}]
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        **options,
    }


@pytest.fixture(scope="package")
def pipe() -> Pipeline:
    return Pipeline(model=tiny_vlm())


@pytest.fixture(scope="package")
def client(pipe: Pipeline) -> Iterator[Any]:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from hdvl.serving import ServedModel, create_app

    with TestClient(create_app([ServedModel("tiny", pipe)])) as client:
        yield client
