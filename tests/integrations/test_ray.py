"""Rows answered by actors of Ray: the answers equal those of this process, also if an actor is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hdvl import infer
from hdvl.config import compose, resolve
from hdvl.integrations.ray import RayBackend
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]


def run(folder: Path, checkpoint: Path, name: str, *words: str) -> list[dict[str, Any]]:
    given = [
        f"inputs={folder}",
        f"outputs={folder.parent / name}",
        f"checkpoint={checkpoint}",
        *words,
    ]
    given += ["prompt=What?", "generation.max_new_tokens=5", "max_bad_rows=1"]
    infer.run(resolve(compose(*given, config_name="infer")), given)
    return [json.loads(line) for line in (folder.parent / name).read_text().splitlines()]


def test_numbers_are_checked() -> None:
    with pytest.raises(ValueError, match=r"engine.actors must be at least 1, got 0"):
        RayBackend(actors=0)
    with pytest.raises(ValueError, match=r"num_cpus and num_gpus must be at least 0"):
        RayBackend(num_gpus=-1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_actors_answer_as_one_process_does(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(12):
        Image.new("RGB", (40 + 7 * number, 50), (20 * number, 9, 90)).save(
            scans / f"{number:02}.png"
        )
    (scans / "05.png").write_text("broken")
    actors = ["engine=ray", "engine.actors=2", "engine.num_cpus=0.5", "engine.batch_size=3"]
    rows = run(scans, tiny_folder, "ray.jsonl", *actors)
    local = run(scans, tiny_folder, "local.jsonl")
    assert [row["row"] for row in rows] == list(range(12))
    assert rows == local and "05.png is not an image" in rows[5]["error"]
    Image.new("RGB", (9, 9)).save(scans / "05.png")
    again = run(scans, tiny_folder, "ray.jsonl")  # what one engine began another completes
    assert again[:5] == rows[:5] and "error" not in again[5]
    with pytest.raises(
        ValueError, match=r"an actor of engine=ray failed: ValueError: model must hold"
    ):
        run(scans, tmp_path / "scans", "bad.jsonl", *actors)
