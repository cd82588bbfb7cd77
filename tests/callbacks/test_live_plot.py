"""The losses are displayed once, and the figure is updated in place."""

from pathlib import Path

import IPython.display
import pytest

from hdvl.callbacks.live_plot import LivePlot
from tests.callbacks.fakes import fake_batch, fake_module, fake_trainer


def test_the_figure_is_shown_once_and_updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bytes]] = []
    for name in ("display", "update_display"):
        monkeypatch.setattr(
            IPython.display,
            name,
            lambda image, display_id, name=name: calls.append((name, image.data)),
        )
    trainer, module = fake_trainer(is_global_zero=True), fake_module()
    plot = LivePlot(folder=str(tmp_path), interval=0)
    plot.on_train_batch_end(trainer, module, None, fake_batch(), 0)
    assert calls == []  # nothing was logged yet
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("step,name,value\n1,train/loss,2.0\n")
    plot.on_train_batch_end(trainer, module, None, fake_batch(), 1)
    metrics.write_text("step,name,value\n1,train/loss,2.0\n2,train/loss,1.0\n")
    plot.on_fit_end(trainer, module)
    assert [name for name, _ in calls] == ["display", "update_display"]
    assert all(data.startswith(b"\x89PNG") for _, data in calls) and calls[0][1] != calls[1][1]
