"""The commands of a user from a folder of images to a fine-tuned model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hdvl
from hdvl.checkpoints.card import read_licence
from hdvl.training.metrics import read_metrics
from tests.own_rows import write_rows

pytestmark = pytest.mark.slow
ROWS = "data=llava data.train.path=mine.json data.train.image_folder=pictures"
TRAIN = f"train init_from=hdvl/small {ROWS} data.holdout=0.1 trainer.max_steps=3 trainer.accelerator=cpu"


def type_in(folder: Path, line: str) -> str:
    """What ``hdvl`` prints to a line that is typed in ``folder``."""
    words = [sys.executable, "-m", "hdvl", *line.split()]
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_the_path_of_a_user(tmp_path: Path) -> None:
    write_rows(tmp_path, 20)
    assert "20 rows of mine.json" in type_in(tmp_path, f"data lint {ROWS}")
    said = type_in(tmp_path, f"{TRAIN} run_dir=runs/mine")
    assert "18 conversations to train on, 2 to validate on" in said
    assert re.search(r"encoder +frozen +0 of", said)
    assert re.search(r"step 3: validation loss \d", said) and "-> " in said
    assert "hdvl infer checkpoint=runs/mine image=FILE" in said
    type_in(tmp_path, f"{TRAIN} optimizer.common.lr=1e-5 run_dir=runs/other")
    asked = type_in(
        tmp_path,
        "infer checkpoint=runs/mine image=pictures/00.png prompt=Price? generation.max_new_tokens=8",
    )
    assert "1 tiles" in asked
    compared = type_in(tmp_path, "compare runs/mine runs/other")
    assert re.search(r"optimizer\.common\.lr +0\.0002 +1e-05", compared)
    assert "validation/loss last" in compared

    run = tmp_path / "runs" / "mine"
    assert hdvl.load(run).model.llm.width == hdvl.load("hdvl/small").model.llm.width
    card = (run / "model" / "README.md").read_text()
    assert read_licence(run / "model") == "Apache-2.0" and "Fine-tuned from `hdvl/small`" in card
    assert "`mine.json`" in card and "| validation loss | 3 |" in card
    assert "run_dir=runs/mine" in (run / "command.txt").read_text()
    assert "optimizer.common.lr: 0.0002" in (run / "hparams.yaml").read_text()
    assert len(read_metrics(run / "metrics.csv", "validation/loss")) >= 1
