"""Checkpoints that do not contain frozen weights which are read from files again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hdvl.checkpoints import load_folder
from hdvl.training.checkpoint_formats import PREFIX
from hdvl.training.frozen import LEFT_OUT, parts_from_files, source_of
from hdvl.training.run import resumed, run
from hdvl.training.tuning import MODULES
from tests.tiny_model import tiny_node, tiny_vlm
from tests.training import runs
from tests.training.runs import Colours, Feeder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder that the runs start from."""
    folder = tmp_path_factory.mktemp("start") / "run"
    return run(runs.config(folder, "trainer.max_steps=2"), Feeder())


def config(folder: Path, start: Path, *overrides: str) -> dict[str, Any]:
    """First the bridge alone, then the bridge and a language model with LoRA; the encoder stays frozen."""
    plain = runs.config(folder, f"init_from={start}", *overrides)
    frozen = {"encoder": "frozen", "merger": "frozen", "llm": "frozen"}
    lora = {"common": {"dropout": 0.2, "rank": 2}}
    plain["stages"] = [
        {"name": "align", "tuning": frozen},
        {"name": "adapt", "tuning": {**frozen, "llm": "lora", "lora": lora}},
    ]
    return plain


def crash() -> None:
    raise OSError("disk gone")


def state_of(run_dir: Path, stage: str) -> dict[str, Any]:
    path = run_dir / stage / "checkpoints" / "last.ckpt"
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    start: Path, tmp_path: Path, precision: str
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    changes = (f"trainer.precision={precision}",)
    run(config(whole, start, *changes), Feeder())
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder, start, *changes), Feeder(Colours(14, crash)))  # in the first stage
    with pytest.raises(OSError, match="disk gone"):
        run(resumed(folder, {}), Feeder(Colours(20, crash)))  # in the second
    run(resumed(folder, {}), Feeder())
    for stage in ("1-align", "2-adapt"):
        ours, theirs = state_of(folder, stage), state_of(whole, stage)
        assert ours[LEFT_OUT] == theirs[LEFT_OUT] and ours[LEFT_OUT]
        for name, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][name], value), name
    mine, other = (load_folder(path / "model").state_dict() for path in (folder, whole))
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in other)


@pytest.mark.slow
def test_only_what_trains_is_stored_and_a_changed_source_is_refused(
    start: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(OSError, match="disk gone"):
        run(config(folder, start), Feeder(Colours(14, crash)))
    state = state_of(folder, "1-align")
    model = load_folder(start)
    frozen = {
        name
        for name, _ in model.named_parameters(remove_duplicate=False)
        if name.partition(".")[0] != "bridge"
    }
    assert state[LEFT_OUT].keys() == frozen
    buffers = {name for name, _ in model.named_buffers()}
    stored = {name.removeprefix("vlm.") for name in state["state_dict"]}
    assert stored == model.state_dict().keys() - frozen
    assert {name for name in stored - buffers if not name.startswith("bridge.")} == set()

    other = run(runs.config(tmp_path / "other", "trainer.max_steps=2", "seed=5"), Feeder())
    with pytest.raises(ValueError, match="frozen weights must be those that the run started from"):
        run(resumed(folder, {"init_from": str(other)}), Feeder())
    with pytest.raises((ValueError, OSError), match="gone"):
        run(resumed(folder, {"init_from": str(tmp_path / "gone")}), Feeder())


@pytest.mark.slow
def test_random_frozen_weights_stay_in_the_checkpoint(start: Path, tmp_path: Path) -> None:
    plain = config(tmp_path / "run", start, "new_parts=[encoder]")
    plain["stages"] = plain["stages"][:1]
    with pytest.warns(UserWarning, match="encoder is new, has random weights"):
        run(plain, Feeder())
    state = state_of(tmp_path / "run", "1-align")
    assert {name.partition(".")[0] for name in state[LEFT_OUT]} == {"llm"}
    assert any(name.startswith("vlm.encoder.") for name in state["state_dict"])


@pytest.mark.parametrize("tied", [True, False])
def test_of_tables_with_added_rows_only_these_are_stored(tied: bool) -> None:
    config = tiny_node()["llm"]["config"] | {"tie_word_embeddings": tied}
    vlm = tiny_vlm(tiny_node(llm={"config": config})).requires_grad_(False)
    stage = {
        "init_from": None,
        "model": {"llm": {"path": "a.gguf"}},
        "tuning": dict.fromkeys(MODULES, "frozen"),
    }
    wanted = {f"{PREFIX}{name}": value.clone() for name, value in vlm.state_dict().items()}
    checkpoint: dict[str, Any] = {"state_dict": dict(wanted)}
    source_of(vlm, stage).leave_out(checkpoint, vlm)
    stored = checkpoint["state_dict"]
    assert all(not name.startswith(f"{PREFIX}llm.") for name in stored)
    tables = {name: entry for name, entry in checkpoint[LEFT_OUT].items() if "rows" in entry}
    assert len(tables) == 2
    for entry in tables.values():
        assert entry["ids"] == list(vlm.llm.new_ids)
        assert entry["rows"].shape == (len(vlm.llm.new_ids), vlm.llm.width)

    # A model that is built again may have other last bits in the added rows, but not in those of the file.
    table = vlm.llm.embedding_layers()[0].weight
    table[list(vlm.llm.new_ids)] += 1e-6
    source_of(vlm, stage).fill_in(checkpoint, vlm)
    found = checkpoint["state_dict"]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    table[3] += 1e-6
    with pytest.raises(ValueError, match="frozen weights must be those that the run started from"):
        source_of(vlm, stage).fill_in({"state_dict": {}, LEFT_OUT: checkpoint[LEFT_OUT]}, vlm)


def test_parts_with_a_source() -> None:
    node = {
        "encoder": {"weights": None},
        "bridge": {"width": 3},
        "llm": {"path": "a.gguf"},
    }
    assert parts_from_files(node, None, ()) == ["llm"]
    node["encoder"] = {"folder": "hdvl/small"}
    assert parts_from_files(node, None, ()) == ["encoder", "llm"]
    node["llm"] = {"config": {}, "tokenizer": {"path": "tokenizer"}}
    assert parts_from_files(node, None, ()) == ["encoder"]
    assert parts_from_files(node, "start", ["bridge"]) == ["encoder", "merger", "llm"]
