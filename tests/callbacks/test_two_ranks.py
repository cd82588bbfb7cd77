"""Messages and stops of a run on two ranks: both ranks stop at the same step."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hdvl.callbacks.guard import BadStep
from hdvl.data.build import build_data
from hdvl.data.faults import TooManyBadRows
from hdvl.data.module import ChatData
from hdvl.model import VLM
from hdvl.training.metrics import read_metrics
from hdvl.training.run import run
from tests.callbacks.runs import Watched
from tests.training.runs import Colours, config, free_ports, one_of

pytestmark = pytest.mark.slow
TWO = ["trainer=ddp", "trainer.devices=2", "trainer.accumulate_grad_batches=1"]


class Poisoned(Watched):
    """One rank's gradient is no number in the third step."""

    def __call__(self, settings: Any, vlm: VLM, *, seed: int) -> ChatData:
        data = super().__call__(settings, vlm, seed=seed)
        rank, step = int(os.environ["LOCAL_RANK"]), 0

        def poison(gradient: torch.Tensor) -> torch.Tensor:
            nonlocal step
            step += 1
            return gradient * float("nan") if rank == 1 and step == 3 else gradient

        next(vlm.bridge.parameters()).register_hook(poison)
        return data


def rows(folder: Path, bad: tuple[int, ...]) -> list[str]:
    """Overrides for twelve rows, of which ``bad`` have no image."""
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    listed = []
    for number in range(12):
        said = {"from": "human", "value": "<image>Colour?"}, {"from": "gpt", "value": "red"}
        image = "none.png" if number in bad else "a.png"
        listed.append({"id": f"row-{number}", "image": image, "conversations": said})
    (folder / "rows.json").write_text(json.dumps(listed))
    train = {"path": folder / "rows.json", "image_folder": folder}
    return ["data=llava", *(f"data.train.{name}={value}" for name, value in train.items())]


def two_runs(rank: int, ports: list[int], folder: Path, data: list[str]) -> None:
    """One of two processes; leaves in ``folder`` what it met."""
    one_of(rank, 2, ports[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadStep) as bad:
            run(
                config(folder / "poisoned", *TWO, "trainer.val_check_interval=1"),
                Poisoned(Colours()),
            )
        with pytest.raises(TooManyBadRows) as many:
            run(config(folder / "bad", *TWO, *data, "data.max_bad=0.1"), build_data)
        run(config(folder / "enough", *TWO, *data, "data.max_bad=0.17"), build_data)
    said = {"poisoned": str(bad.value), "bad": str(many.value)}
    (folder / f"{rank}.json").write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


def test_two_ranks_stop_together(tmp_path: Path) -> None:
    data = rows(tmp_path, bad=(2, 9))
    torch.multiprocessing.spawn(two_runs, args=(free_ports(1), tmp_path, data), nprocs=2)
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    # The gradient is summed over the ranks, so both see it; each writes its own batch down.
    for rank in (0, 1):
        assert said[rank]["poisoned"].startswith("step 3: the loss is ")
        assert "but the gradient's norm nan" in said[rank]["poisoned"]
        dumped = tmp_path / "poisoned" / "bad_steps" / f"step-000003-rank{rank}"
        assert sorted(path.name for path in dumped.iterdir()) == [
            "batch-0.safetensors",
            "batch-0.txt",
        ]
    steps = [json.loads(line)["step"] for line in _lines(tmp_path / "poisoned" / "answers.jsonl")]
    assert steps == sorted(steps) and set(steps) == {1, 2}
    assert len(steps) == 2 * steps.count(1)  # once each, not once a rank
    # Two of twelve are more than a tenth, though each rank met one.
    for rank in (0, 1):
        assert "got 2; find all" in said[rank]["bad"]
        assert "row-2" in said[rank]["bad"] and "row-9" in said[rank]["bad"]
    assert len(read_metrics(tmp_path / "enough" / "metrics.csv", "train/loss")) == 5


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
