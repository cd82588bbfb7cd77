"""All tunings of encoder, bridge and LLM: changed tensors, saved models, and loading in another process."""

import itertools
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from hdvl.checkpoints import save_folder
from hdvl.config import CONF_DIR, to_plain
from hdvl.model import VLM
from hdvl.processor import Batch, collate
from hdvl.training.audit import check_moved, declared_tensors, fingerprints, moved_tensors
from hdvl.training.groups import build_optimizer, parameter_groups
from hdvl.training.tuning import MODULES, apply_tuning, merge_lora
from tests.tiny_model import tiny_node, tiny_vlm
from tests.training.layouts import samples

MODES = ("frozen", "full", "lora", "dora")
LORA = {"common": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}}
# Torch's attention and plain linear layers in the encoder, two linear layers in the bridge.
NODE = tiny_node(bridge={"depth": 2})
NODE["encoder"] = {
    "_target_": "hdvl.encoders.OpenCLIPEncoder.from_pretrained",
    "name": "ViT-B-16",
    "weights": None,
    "select_layer": -1,
    "final_norm": True,
    "config": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
}
# Loads every model below a folder without network; writes its logits for the inputs in the folder.
LOADER = """
import socket, sys
from pathlib import Path

def refuse(*args, **kwargs):
    raise OSError("no network here")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import torch
from hdvl.checkpoints import load_folder

torch.set_num_threads(1)
root = Path(sys.argv[1])
found = {}
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    vlm = load_folder(folder, check=False)
    batch = torch.load(root / "inputs.pt", weights_only=False)
    with torch.no_grad():
        found[folder.name] = vlm(batch.input_ids, batch.pixels, batch.plans).logits
torch.save(found, root / "logits.pt")
"""


def tuning_of(modes: tuple[str, ...]) -> dict[str, Any]:
    """Encoder, bridge and LLM as ``modes``; the merger's newline only where nothing else trains."""
    chosen = dict(zip(("encoder", "bridge", "llm"), modes, strict=True))
    merger = "full" if set(modes) == {"frozen"} else "frozen"
    return {**chosen, "merger": merger, "lora": LORA}


def logits_of(vlm: VLM, batch: Batch) -> Tensor:
    """Logits in evaluation mode."""
    vlm.eval()
    with torch.no_grad():
        return vlm(batch.input_ids, batch.pixels, batch.plans).logits


def train(vlm: VLM, batch: Batch, tuning: dict[str, Any], steps: int = 2) -> None:
    """Steps of the config's optimizer; exactly what was declared moves."""
    apply_tuning(vlm, tuning)
    before = fingerprints(vlm)
    node = to_plain(OmegaConf.load(CONF_DIR / "optimizer" / "adamw.yaml"))
    groups = parameter_groups(vlm, node["groups"], node["common"] | {"lr": 1e-2})
    optimizer = build_optimizer(node, groups)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = vlm(batch.input_ids, batch.pixels, batch.plans, labels=batch.labels).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
    assert not check_moved(before, vlm, tuning)
    assert moved_tensors(before, vlm) == declared_tensors(vlm, tuning)


@pytest.fixture(scope="module")
def start() -> VLM:
    """The model that every combination starts from."""
    return tiny_vlm(NODE)


@pytest.fixture(scope="module")
def batch(start: VLM) -> Batch:
    """Two conversations about images."""
    found = samples(start)
    return collate([found[2], found[3]], pad_id=start.llm.tokenizer.pad_token_id)


@pytest.mark.slow
def test_all_64_train_save_and_load_elsewhere(start: VLM, batch: Batch, tmp_path: Path) -> None:
    expected = {}
    plain = fingerprints(start)
    for modes in itertools.product(MODES, repeat=3):
        vlm, tuning, name = deepcopy(start), tuning_of(modes), "-".join(modes)
        train(vlm, batch, tuning)
        trained = logits_of(vlm, batch)
        merge_lora(vlm)
        expected[name] = logits_of(vlm, batch)
        # Merging rounds each weight once; logits here are of the order of ten.
        torch.testing.assert_close(expected[name], trained, rtol=0, atol=2e-4)
        moved = {key.partition(".")[0] for key in moved_tensors(plain, vlm)}
        assert moved == {part for part in MODULES if tuning[part] != "frozen"}, name
        save_folder(vlm, tmp_path / name, {"model": NODE})
    torch.save(batch, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", LOADER, str(tmp_path)], check=True, timeout=300)
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert len(found) == 64 and found.keys() == expected.keys()
    assert [name for name in found if not found[name].equal(expected[name])] == []
    different = torch.stack([logits.flatten() for logits in found.values()]).unique(dim=0)
    assert len(different) == 64, "each combination is a model of its own"


@pytest.mark.slow
def test_nothing_to_train_is_an_error(start: VLM) -> None:
    nothing = tuning_of(("frozen", "frozen", "frozen")) | {"merger": "frozen"}
    with pytest.raises(
        ValueError, match="must train something, nothing would learn with encoder=frozen, bridge="
    ):
        apply_tuning(deepcopy(start), nothing)
