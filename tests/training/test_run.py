"""Whole runs with parts of a few thousand parameters: stages, resumption, Ctrl-C, what is written."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from hdvl.checkpoints import load_folder
from hdvl.config import compose
from hdvl.data.module import ChatData
from hdvl.model import VLM
from hdvl.processor import Processor
from hdvl.protocols import Message
from hdvl.training.metrics import read_metrics
from hdvl.training.run import Stopped, resumed, run

pytestmark = [
    # Lightning's own, outside of the part that run() silences.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


class Colours:
    """Pictures of one colour, and its name as the answer; something may happen at one of them."""

    def __init__(self, at: int = -1, happens: Callable[[], None] = lambda: None) -> None:
        self.calls, self.at, self.happens = 0, at, happens

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> list[Message]:
        self.calls += 1
        if self.calls == self.at:
            self.happens()
        name = list(COLOURS)[index % 4]
        image = Image.new("RGB", (32 + 32 * (index % 2), 32), COLOURS[name])
        return [Message("user", "Colour?", (image,)), Message("assistant", name)]


class Feeder:
    """Gives the data module of every stage; all draw from one list of colours."""

    def __init__(self, colours: Colours | None = None) -> None:
        self.colours = colours or Colours()

    def __call__(self, config: Any, vlm: VLM, *, seed: int) -> ChatData:
        return ChatData(
            train=self.colours,
            processor=Processor.of(vlm),
            batch_size=2,
            num_workers=0,
            seed=seed,
        )


def config(folder: Path, *overrides: str) -> dict[str, Any]:
    """Two stages of five steps: the bridge with dropout in its LoRA, then everything."""
    composed = compose(
        "encoder=conv_stem",
        "encoder.tile_size=32",
        "encoder.width=16",
        "encoder.stem_width=8",
        "encoder.depth=1",
        "tiler.tile_size=32",
        "tiler.stride=32",
        "tiler.multiple_of=32",
        "llm.config.hidden_size=32",
        "llm.config.intermediate_size=32",
        "llm.config.num_hidden_layers=1",
        "llm.tokenizer.vocab_size=320",
        "+llm.config.attention_dropout=0.1",
        "trainer.max_steps=5",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "trainer.accumulate_grad_batches=2",
        "callbacks.checkpoints.every_n_steps=2",
        f"run_dir={folder}",
        *overrides,
    )
    plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)
    plain["stages"] = [
        {"name": "align", "tuning": {"encoder": "frozen", "llm": "lora"}},
        {"name": "all", "optimizer": {"groups": {"bridge": {"lr": 1e-3}}}},
    ]
    plain["stages"][0]["tuning"]["lora"] = {"common": {"dropout": 0.2, "rank": 2}}
    return plain


def losses(folder: Path) -> list[float]:
    """All logged losses, stage after stage."""
    found = []
    for stage in ("1-align", "2-all"):
        values = read_metrics(folder / stage / "metrics.csv", "train/loss")
        assert list(values) == list(range(5))
        found += list(values.values())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from start to end."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config(folder), Feeder())
    return folder


@pytest.mark.slow
def test_a_run_leaves_a_model_and_its_papers(whole: Path) -> None:
    assert isinstance(load_folder(whole / "model"), VLM)
    assert yaml.safe_load((whole / "train.yaml").read_text())["trainer"]["max_steps"] == 5
    for stage in ("1-align", "2-all"):
        assert list((whole / stage).glob("events.*"))
        state = torch.load(whole / stage / "checkpoints" / "last.ckpt", weights_only=True)
        assert state["global_step"] == 5
        assert state["ChatData"] == {"consumed": 20}
        assert (whole / stage / "checkpoints" / "previous.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 14, 20, 33])
def test_a_crash_loses_nothing(whole: Path, tmp_path: Path, at: int) -> None:
    def crash() -> None:
        raise OSError("disk gone")

    folder = tmp_path / "run"
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder), Feeder(Colours(at, crash)))
    run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)
    ours, theirs = (load_folder(path / "model").state_dict() for path in (folder, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("at", [6, 26])
def test_ctrl_c_saves_and_stops(
    whole: Path, tmp_path: Path, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match=f"go on with: hdvl train resume={folder}"):
        run(config(folder), Feeder(Colours(at, lambda: os.kill(os.getpid(), signal.SIGINT))))
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C: saving after this step" in capsys.readouterr().out
    stage = "1-align" if at < 20 else "2-all"
    state = torch.load(folder / stage / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2
    assert not (folder / stage / "finished").exists()
    run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_a_torn_checkpoint_is_passed_over(whole: Path, tmp_path: Path) -> None:
    def crash() -> None:
        raise OSError("disk gone")

    folder = tmp_path / "run"
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder), Feeder(Colours(18, crash)))
    last = folder / "1-align" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is not a whole checkpoint"):
        run(resumed(folder, {}), Feeder())
    assert losses(folder) == losses(whole)


@pytest.mark.slow
def test_a_run_can_be_made_longer(tmp_path: Path) -> None:
    plain = config(tmp_path / "run", "optimizer.shape=constant", "callbacks.progress.interval=0")
    plain["stages"] = None
    run(plain, Feeder())
    run(resumed(tmp_path / "run", {"trainer.max_steps": 7}), Feeder())
    values = read_metrics(tmp_path / "run" / "metrics.csv", "train/loss")
    assert list(values) == list(range(7))


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match=r"run_dir must be a new folder, .* holds a run; go on"):
        run(config(tmp_path), Feeder())


def test_wrong_resumptions_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"resume must be a run folder with train\.yaml"):
        resumed(tmp_path, {})
    (tmp_path / "train.yaml").write_text("trainer: {max_steps: 3}\n")
    with pytest.raises(ValueError, match=r"trainer\.max_step is no key of the run's config"):
        resumed(tmp_path, {"trainer.max_step": 4})
