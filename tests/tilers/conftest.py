"""Images for the tests of tilers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def gradient(width: int, height: int, odd: int = 0) -> np.ndarray:
    """The golden files' image: red grows to the right, green downwards, blue is a 16 px board."""
    x, y = np.arange(width), np.arange(height)[:, None]
    red = np.broadcast_to(x * 255 // max(width - 1, 1), (height, width))
    green = np.broadcast_to(y * 255 // max(height - 1, 1), (height, width))
    blue = np.where((x // 16 + y // 16 + odd) % 2, 255, 0)
    return np.stack([red, green, blue], -1).astype(np.uint8)


@pytest.fixture
def make_image() -> Callable[[int, int], np.ndarray]:
    return gradient


@pytest.fixture
def noise() -> Callable[[int, int], Image.Image]:
    """Black and white noise: the hardest image to resize exactly."""
    draw = np.random.default_rng(0)
    return lambda width, height: Image.fromarray(
        draw.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``xverse_v_case`` runs for each case of golden/xverse_v_tiler.json."""
    for name in ("xverse_v", "internvl"):
        if f"{name}_case" in metafunc.fixturenames:
            cases = json.loads((GOLDEN / f"{name}_tiler.json").read_text())["cases"]
            names = ["-".join(str(v) for v in list(case.values())[:3]) for case in cases]
            metafunc.parametrize(f"{name}_case", cases, ids=names)


@pytest.fixture
def unchecked() -> Callable[..., Any]:
    """Make a tiler without the type checks of the tests, as a user does who writes nonsense."""

    def make(kind: type, **options: Any) -> Any:
        tiler = object.__new__(kind)
        for name, value in {**vars(kind()), **options}.items():
            object.__setattr__(tiler, name, value)
        kind.__post_init__(tiler)  # type: ignore[attr-defined]
        return tiler

    return make


@pytest.fixture
def sizes() -> list[tuple[int, int]]:
    """200 image sizes, flat and tall ones and the extremes among them."""
    draw = np.random.default_rng(7)
    some = np.exp(draw.uniform(0, np.log(3000), (194, 2))).astype(int) + 1
    extremes = [(1, 1), (1, 20_000), (20_000, 1), (224, 224), (448, 448), (337, 337)]
    return extremes + [(int(width), int(height)) for width, height in some]
