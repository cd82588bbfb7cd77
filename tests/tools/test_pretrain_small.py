"""The tool that trains the small model's encoder on dense labels, continuing from a complete model."""

from pathlib import Path

import pretrain_small
import pytest
import torch

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.sources import ASSETS


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "moved"), [(2, False), (4, True)])
def test_the_heads_learn_first(
    steps: int, moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "read"
    options = {"init-from": ASSETS / "small", "out": out, "steps": steps, "heads-first": 2}
    options |= {"batch": 1, "threads": 1}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["pretrain_small.py", *words])
    pretrain_small.main()
    before = load_folder(ASSETS / "small").state_dict()
    after = load_folder(out).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {name.split(".")[0] for name in changed}
    assert parts == ({"encoder", "bridge"} if moved else set())
    assert not any("running" in name for name in changed), "batch norms stay as they are"


def test_ink_counts_ten_times_as_much_as_paper() -> None:
    """Label 0 is paper; the share that is read right is that of ink alone."""
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]]])
    labels = torch.tensor([[0, 1, 1]])
    loss, right = pretrain_small.inked_loss(logits, labels)
    paper, first, second = -logits[0].log_softmax(-1)[torch.arange(3), labels[0]]
    torch.testing.assert_close(loss, (0.1 * paper + first + second) / 2.1)
    assert float(right) == 0.5
