"""``hdvl chat`` with lines from a pipe: answers on stdout, everything else on stderr."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hdvl.config import CONF_DIR
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]


def test_parts_and_options_are_those_of_infer() -> None:
    chat, infer = (
        yaml.safe_load((CONF_DIR / f"{name}.yaml").read_text()) for name in ("chat", "infer")
    )
    infer["defaults"].remove({"engine": "local"})  # chat asks the model itself
    for key in ("defaults", "generation", "model", "checkpoint", "seed"):
        assert chat[key] == infer[key]


@pytest.mark.slow
def test_lines_from_a_pipe(tiny_folder: Path, tmp_path: Path) -> None:
    lines = [
        f"/image {CONF_DIR.parent}/hdvl/assets/tag.png",
        "What is it?",
        "/nonsense",
        "And?",
        "/save c.json",
    ]
    words = [f"checkpoint={tiny_folder}", "generation.max_new_tokens=4"]
    done = subprocess.run(
        [sys.executable, "-m", "hdvl.chat", *words],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CONF_DIR.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 2 and "tiles" not in done.stdout
    assert done.stderr.count("numbers") == 2 and "/nonsense is no command" in done.stderr
    assert "> " not in done.stdout and "Traceback" not in done.stderr
    assert (tmp_path / "c.json").is_file()
