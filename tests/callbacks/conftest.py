"""A finished run with callbacks, and a tiny model."""

from pathlib import Path

import pytest

from hdvl.model import VLM
from hdvl.training.run import run
from tests.callbacks.runs import Watched
from tests.tiny_model import tiny_vlm
from tests.training.runs import config


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run. Tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    run(
        config(folder, "trainer.val_check_interval=4", "callbacks.answers.max_new_tokens=4"),
        Watched(),
    )
    return folder


@pytest.fixture(scope="session")
def vlm() -> VLM:
    """Two layers of random weights."""
    return tiny_vlm()
