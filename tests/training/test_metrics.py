"""The file of metrics: appended, read exactly, and truncated on resumption."""

from pathlib import Path

import pytest

from hdvl.training.metrics import MetricsFile, drop_rows_after, read_metrics


def test_values_come_back_exactly(tmp_path: Path) -> None:
    logger = MetricsFile(folder=str(tmp_path / "run"))
    logger.log_metrics({"loss": 0.1 + 0.2, "lr": 1e-5}, step=0)
    logger.log_metrics({"loss": 1 / 3}, step=1)
    logger.log_hyperparams({"ignored": 1})
    assert (logger.name, logger.version, logger.save_dir) == ("metrics", "", str(tmp_path / "run"))
    assert read_metrics(logger.path, "loss") == {1: 0.1 + 0.2, 2: 1 / 3}
    MetricsFile(folder=str(tmp_path / "run")).log_metrics({"loss": 2.0}, step=2)
    assert list(read_metrics(logger.path, "loss")) == [1, 2, 3]


def test_rows_after_a_checkpoint_are_dropped(tmp_path: Path) -> None:
    logger = MetricsFile(folder=str(tmp_path))
    drop_rows_after(logger.path, 1)
    for step in range(12):
        logger.log_metrics({"loss": float(step)}, step=step)
    with logger.path.open("a") as file:
        file.write("13,lo")  # killed while writing
    drop_rows_after(logger.path, 10)
    assert list(read_metrics(logger.path, "loss")) == list(range(1, 11))
    assert logger.path.read_text().startswith("step,name,value\n1,loss,0.0\n")


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    logger = MetricsFile(folder=str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=0)
    assert read_metrics(logger.path, "los") == {}
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "other.csv", "loss")
