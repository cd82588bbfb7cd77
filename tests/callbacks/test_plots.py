"""Curves as images."""

import math
from pathlib import Path

import pytest
from PIL import Image

from hdvl.callbacks import plots
from hdvl.callbacks.plots import Plots, draw_run, highest_rates, smoothed
from hdvl.training.curves import read_curves
from tests.callbacks.fakes import fake_module, fake_trainer

ROWS = [
    *(f"{step},train/loss,{3 * math.exp(-step / 40)}\n" for step in range(100)),
    *(
        f"{step},lr/llm/layer{layer},{step * 10 ** -(6 + layer)}\n"
        for step in range(100)
        for layer in (0, 1)
    ),
    "50,validation/loss,1.5\n",
    "50,speed/tiles_per_second,3.0\n",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metrics.csv").write_text("step,name,value\n" + "".join(ROWS) + "100,train/lo")
    return tmp_path


@pytest.mark.slow
def test_both_images_are_drawn(folder: Path) -> None:
    assert [path.name for path in draw_run(folder)] == ["losses.png", "rates.png"]
    for name in plots.FILES:
        image = Image.open(folder / name).convert("RGB")
        assert image.format is None and image.size == (880, 495)
        assert len(set(image.resize((88, 50)).tobytes())) > 20
    assert not list(folder.glob("*.part"))


def test_the_rate_of_a_part_is_the_highest_of_its_groups(folder: Path) -> None:
    curves = read_curves(folder / "metrics.csv")
    assert len(curves["train/loss"]) == 100  # the torn row is none
    assert highest_rates(curves) == {"llm": {step: step * 1e-6 for step in range(100)}}


def test_ticks_are_whole_steps() -> None:
    figure = plots.loss_figure({"validation/loss": {1: 2.0, 2: 1.0}})
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == [1, 2]
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_smoothing_is_a_running_median() -> None:
    curve = {step: float(step) for step in range(40)} | {39: 1000.0}
    assert smoothed(curve)[0] == 0.0 and smoothed(curve)[39] == (38 + 1000) / 2


def test_failed_runs_are_drawn_and_runs_without_metrics_are_no_error(
    folder: Path, tmp_path: Path
) -> None:
    trainer = fake_trainer(is_global_zero=True)
    Plots(folder=str(tmp_path / "none")).on_exception(trainer, fake_module(), OSError())
    Plots(folder=str(folder)).on_exception(trainer, fake_module(), OSError())
    assert (folder / "losses.png").exists()


def test_missing_matplotlib_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    Plots(folder=str(folder)).on_fit_end(fake_trainer(is_global_zero=True), fake_module())
    assert capsys.readouterr().out == "no plots: matplotlib is missing; pip install 'hdvl[plots]'\n"
    assert not (folder / "losses.png").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_a_run_writes_its_plots(watched: Path) -> None:
    assert all((watched / name).stat().st_size > 10_000 for name in plots.FILES)
