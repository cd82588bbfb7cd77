"""The page of the first batch shows the images and the text of the tensors."""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hdvl.callbacks.first_batch import FirstBatch

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")


@pytest.mark.slow
def test_the_page_shows_what_the_model_gets(watched: Path) -> None:
    page = (watched / "first_batch.html").read_text(encoding="utf-8")
    title = re.search(r"<h1>First batch: 2 samples, (\d+) tokens \((\d+) supervised\)", page)
    assert title
    said = re.findall(r"<mark>(.*?)</mark>", page, re.S)
    colours = {"red": (254, 0, 0), "green": (0, 255, 1), "blue": (0, 0, 254), "white": (255,) * 3}
    names = [text.removesuffix("&lt;|im_end|&gt;") for text in said]
    assert len(names) == 2 and set(names) <= set(colours)
    images = re.findall(r"base64,([^\"]+)", page)
    for name, data in zip(names, images, strict=True):  # the image beside its own answer
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        pixel = image.getpixel((image.width - 12, 24))
        assert max(abs(a - b) for a, b in zip(pixel, colours[name], strict=True)) < 12
    rows = re.findall(r"<h2>(conversation \d+)</h2>", page)
    assert len(rows) == 2


@pytest.mark.slow
def test_tensorboard_has_it_too(watched: Path) -> None:
    events = EventAccumulator(str(watched), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == {"first_batch/0", "first_batch/1"}
    (table,) = events.Tensors("first_batch/text_summary")
    text = table.tensor_proto.string_val[0].decode()
    assert re.search(r"\*\*(red|green|blue|white)&lt;\\\|im_end\\\|>\*\*", text)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        FirstBatch(folder=".", samples=0)
