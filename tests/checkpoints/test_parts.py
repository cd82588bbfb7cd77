"""Parts out of other model folders: their weights and numbers, and a new folder that stands alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hdvl.checkpoints import encoder_from, load_folder, save_folder
from hdvl.config import build, compose, from_plain, to_unresolved
from hdvl.meta import on_meta
from hdvl.training.run import run
from tests.tiny_model import NODE, tiny_folder, tiny_node, tiny_vlm
from tests.training import runs
from tests.training.runs import Feeder

__all__ = ["tiny_folder"]

FACTORIES = ("bridge", "merger")


def source(part: str, folder: Path, **options: Any) -> dict[str, Any]:
    held = {"_partial_": True} if part in FACTORIES else {}
    return {"_target_": f"hdvl.checkpoints.{part}_from", "folder": str(folder), **held, **options}


def taking(folder: Path, *parts: str, **changes: Any) -> dict[str, Any]:
    """The tiny model's node in which ``parts`` come from ``folder``."""
    return {**tiny_node(**changes), **{part: source(part, folder) for part in parts}}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("part", ["encoder", "bridge", "merger", "llm"])
def test_a_part_keeps_its_weights_and_the_others_are_new(part: str, tiny_folder: Path) -> None:
    theirs = load_folder(tiny_folder)
    mine = tiny_vlm(taking(tiny_folder, part), seed=1)
    assert same(getattr(mine, part), getattr(theirs, part))
    others = {"encoder", "bridge", "merger", "llm"} - {part}
    assert not any(same(getattr(mine, other), getattr(theirs, other)) for other in others)
    assert all(p.requires_grad for p in getattr(mine, part).parameters())


def test_the_new_folder_stands_alone(tiny_folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny_folder, old)
    node = taking(old, "encoder", "bridge", "merger", "llm")
    vlm = tiny_vlm(node)
    shutil.rmtree(old)
    new = save_folder(vlm, tmp_path / "new", {"model": node})
    assert same(load_folder(new), vlm)
    stored = yaml.safe_load((new / "config.yaml").read_text())["model"]
    for part in ("encoder", "bridge", "merger"):
        assert stored[part] == NODE[part]


@pytest.mark.slow
def test_the_choices_of_conf(tiny_folder: Path) -> None:
    words = [f"{part}=from" for part in ("encoder", "llm")]
    words += [f"{part}.folder={tiny_folder}" for part in ("encoder", "llm")]
    config = compose(*words)
    vlm, theirs = build(config.model), load_folder(tiny_folder)
    assert same(vlm.encoder, theirs.encoder) and vlm.tiler.tile_size == 32
    assert vlm.llm.tokenizer.get_vocab() == theirs.llm.tokenizer.get_vocab()
    assert all(value.is_meta for value in on_meta(config.model).parameters())
    with pytest.raises(
        ValueError, match=r"encoder\.folder must be given, such as encoder\.folder="
    ):
        build(compose("encoder=from").model)


def test_inside_of_another_part(tiny_folder: Path, tmp_path: Path) -> None:
    inner = {"left": source("encoder", tiny_folder), "right": NODE["encoder"]}
    node = tiny_node(
        encoder={"_target_": "hdvl.encoders.FusedEncoder", "encoders": inner, "tile_size": 32}
    )
    node["encoder"] = {k: v for k, v in node["encoder"].items() if k in ("_target_", "encoders")}
    new = save_folder(tiny_vlm(node), tmp_path / "fused", {"model": node})
    stored = yaml.safe_load((new / "config.yaml").read_text())["model"]["encoder"]["encoders"]
    assert stored == {"left": NODE["encoder"], "right": NODE["encoder"]}


@pytest.mark.slow
def test_half_precision_becomes_what_trains(tmp_path: Path) -> None:
    folder = save_folder(tiny_vlm().to(torch.bfloat16), tmp_path / "half", {"model": NODE})
    vlm = tiny_vlm(taking(folder, "encoder", "llm"))
    assert {p.dtype for p in vlm.parameters()} == {torch.float32}
    half = build(from_plain(source("llm", folder, dtype="bfloat16")))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_what_is_no_source_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder\.folder must be a folder, there is no "):
        encoder_from(folder=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"model 'hdvl/large' is not shipped"):
        encoder_from(folder="hdvl/large")
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(
        ValueError, match=r"must hold a model of hdvl, .* does not; convert it: hdvl"
    ):
        encoder_from(folder=str(tmp_path))
    (tmp_path / "config.json").rename(tmp_path / "weights.bin")
    with pytest.raises(ValueError, match=r"does not; give a folder that hdvl saved"):
        encoder_from(folder=str(tmp_path))


@pytest.mark.parametrize("how", [build, on_meta])
def test_a_bridge_between_other_parts_is_refused(tiny_folder: Path, how: Any) -> None:
    node = taking(tiny_folder, "bridge", encoder={"width": 24})
    with pytest.raises(
        ValueError, match=r"the bridge in .*, between parts with in_width=24, out_width=32, grid="
    ):
        how(from_plain(node))


def test_a_folder_cannot_take_parts_from_elsewhere(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny_folder, folder)
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    plain["model"]["encoder"] = source("encoder", tiny_folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(ValueError, match=r"names hdvl\.checkpoints\.encoder_from"):
        load_folder(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_a_run_trains_around_a_part_of_another_model(tiny_folder: Path, tmp_path: Path) -> None:
    words = ("encoder=from", f"encoder.folder={tiny_folder}", "tuning=bridge_only")
    small = [word for word in runs.SMALL if not word.startswith("encoder.")]
    plain: Any = compose(*[w for w in small if w != "encoder=conv_stem"], *words)
    config = {**to_unresolved(plain), "run_dir": str(tmp_path / "run")}
    trained = load_folder(run(config, Feeder()))
    assert same(trained.encoder, load_folder(tiny_folder).encoder)
