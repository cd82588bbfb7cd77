"""A run with packing: crashes do not change the result, and no position is padded."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hdvl.data.module import ChatData
from hdvl.data.packing import Budget
from hdvl.model import VLM
from hdvl.processor import Processor
from hdvl.training.metrics import read_metrics
from hdvl.training.run import resumed, run
from tests.tiny_model import tiny_vlm
from tests.training.test_run import Colours, config, losses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
]


class Feeder:
    """Packs of colours; the source breaks at a call, if it is told to."""

    def __init__(self, colours: Colours | None = None) -> None:
        self.colours = colours or Colours()

    def __call__(self, config: Any, vlm: VLM, *, seed: int) -> ChatData:
        return ChatData(
            train=self.colours,
            processor=Processor.of(vlm),
            num_workers=0,
            seed=seed,
            packing=Budget(tokens=200, tiles=20, window=4),
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, colours = tmp_path_factory.mktemp("whole") / "run", Colours()
    run(config(folder), Feeder(colours))
    (folder / "calls").write_text(str(colours.calls))
    return folder


def test_nothing_is_padded(whole: Path) -> None:
    padding = read_metrics(whole / "1-align" / "metrics.csv", "speed/padding_percent")
    assert len(padding) == 5 and not any(padding.values())
    assert all(loss > 0 for loss in losses(whole))


@pytest.mark.parametrize(("part", "stage"), [(0.45, "1-align"), (0.95, "2-all")])
def test_a_crash_loses_nothing(whole: Path, tmp_path: Path, part: float, stage: str) -> None:
    def crash() -> None:
        raise OSError("disk gone")

    folder = tmp_path / "run"
    at = int(part * int((whole / "calls").read_text()))
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder), Feeder(Colours(at, crash)))
    assert (folder / stage / "checkpoints" / "last.ckpt").exists()
    assert not (folder / stage / "finished").exists()
    run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)


def test_packing_may_not_come_or_go(whole: Path) -> None:
    path = whole / "1-align" / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)["ChatData"]
    assert state["consumed"] == 10 and state["packs"]["number"] <= 10
    data = ChatData(train=Colours(), processor=Processor.of(tiny_vlm()))
    with pytest.raises(ValueError, match="be resumed with the packing it was started with"):
        data.load_state_dict(state)
