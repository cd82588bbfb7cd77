"""Images that are unlike those of the training are noticed."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import hdvl
from hdvl.inference import Pipeline
from hdvl.inference.familiarity import FILE, Familiarity, summarise
from hdvl.inference.summary import report
from tests.tiny_model import tiny_vlm


def tokens(shift: float = 0.0, count: int = 20) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(30, 4, generator=generator) + shift for _ in range(count)]


def test_a_summary_is_mean_and_deviation() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert summarise(values).tolist() == [2.0, 2.0, 1.0, 0.0]


def test_the_limit_is_beyond_all_that_were_held_out() -> None:
    found = Familiarity.measure(tokens(), tokens(0.1, 10))
    assert all(found.distance(one) < found.limit for one in tokens(0.1, 10))
    assert all(found.distance(one) > found.limit for one in tokens(5.0))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert Familiarity.read(tmp_path) is None
    found = Familiarity.measure(tokens(), tokens())
    found.write(tmp_path)
    again = Familiarity.read(tmp_path)
    assert again is not None
    assert again.distance(tokens(1.0)[0]) == pytest.approx(found.distance(tokens(1.0)[0]), abs=0.01)


@pytest.mark.parametrize(
    "held",
    ["{}", '{"mean": [1], "std": [0], "limit": 1}', '{"mean": [1, 2], "std": [1], "limit": 1}'],
)
def test_damaged_statistics(held: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(held)
    with pytest.raises(ValueError, match=r"training_images\.json must hold"):
        Familiarity.read(tmp_path)


def test_an_answer_names_the_images_that_are_unlike() -> None:
    pipe = Pipeline(model=tiny_vlm())
    plain = [Image.new("RGB", (64, 32), (shade, shade, 90)) for shade in range(0, 250, 25)]

    def visual(image: Image.Image) -> torch.Tensor:
        tiles = pipe.tiler(image)
        return pipe.model.encode_images(tiles.pixels, [tiles.plan])[0]

    images = [visual(image) for image in plain]
    pipe.familiarity = Familiarity.measure(images, images)
    noise = Image.effect_noise((64, 32), 120).convert("RGB")
    answer = pipe.chat("What?", images=[plain[3], noise], max_new_tokens=2)
    assert answer.unfamiliar == (1,)
    assert "image 2 is unlike the images that this model was trained on" in report(answer)


def test_the_shipped_model_answers_a_familiar_image() -> None:
    folder = Path(hdvl.__file__).parent / "assets" / "small"
    held = json.loads((folder / FILE).read_text())
    config = hdvl.compose("model=small").model
    assert len(held["mean"]) == len(held["std"]) == 2 * config.llm.config.hidden_size


@pytest.mark.slow
def test_the_shipped_model_knows_pages_and_no_noise() -> None:
    pipe = hdvl.load("hdvl/small")
    page = Path(hdvl.__file__).parent / "assets" / "receipt.png"
    noise = Image.effect_noise((900, 700), 80).convert("RGB")
    assert pipe.chat("What?", images=[page], max_new_tokens=1).unfamiliar == ()
    selected = pipe.chat("Where is the total?", page, select="thumbnail", max_new_tokens=1)
    assert selected.numbers.unselected_tiles and selected.unfamiliar == ()
    assert pipe.chat("What?", images=[noise], max_new_tokens=1).unfamiliar == (0,)
