import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hdvl.config import build, compose
from hdvl.encoders.weights import (
    find_weight_file,
    load_exactly,
    read_tensors,
    renamed,
    without_prefix,
)
from hdvl.overrides import typed_overrides

FILES = ("model.safetensors", "pytorch_model.bin")


def test_paths_of_files_and_folders(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "other.safetensors"):
        (tmp_path / name).touch()
    assert find_weight_file(tmp_path / "other.safetensors", FILES).name == "other.safetensors"
    assert find_weight_file(str(tmp_path), FILES).name == "pytorch_model.bin"
    (tmp_path / "model.safetensors").touch()
    assert find_weight_file(tmp_path, FILES).name == "model.safetensors"


def test_the_only_safetensors_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"or one \.safetensors, got 0 \.safetensors in"):
        find_weight_file(tmp_path, FILES)
    (tmp_path / "a.safetensors").touch()
    assert find_weight_file(tmp_path, FILES).name == "a.safetensors"
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"got 2 \.safetensors in .*; name the file"):
        find_weight_file(tmp_path, FILES)


def test_no_such_path() -> None:
    with pytest.raises(FileNotFoundError, match="weights must be a file or folder, got 'timm/vit'"):
        find_weight_file("timm/vit", FILES)


def test_the_hub_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    (tmp_path / "model.safetensors").touch()

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        return str(tmp_path)

    hub = SimpleNamespace(snapshot_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert find_weight_file("hub:owner/name", FILES).parent == tmp_path
    assert asked == ["owner/name"]


def test_shards_are_read_together(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    assert sorted(read_tensors(index)) == ["a", "b"]


def test_pickles_hold_plain_tensors_only(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "object.pt")
    with pytest.raises(ValueError, match=r"must be plain tensors, .*object\.pt is not"):
        read_tensors(tmp_path / "object.pt")
    torch.save({"a": torch.ones(1), "epoch": 3}, tmp_path / "mixed.pt")
    with pytest.raises(ValueError, match=r"must be a dict of tensors, .* holds \['a', 'epoch'\]"):
        read_tensors(tmp_path / "mixed.pt")
    torch.save({"epoch": 3, "state_dict": {"a": torch.ones(1)}}, tmp_path / "training.pt")
    assert list(read_tensors(tmp_path / "training.pt")) == ["a"]


def test_a_prefix_is_removed_where_present() -> None:
    state = {"visual.a": torch.ones(1), "text.b": torch.ones(1)}
    assert list(without_prefix(state, "visual.")) == ["a"]
    assert list(without_prefix({"a": torch.ones(1)}, "visual.")) == ["a"]


def test_all_faults_are_listed_at_once_and_nothing_is_loaded() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    state = {"weight": torch.ones(3), "extra": torch.ones(1), "spare": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"missing: bias; surplus: extra; misshapen: weight \(3,\)"
    ):
        load_exactly(layer, state, known={"weight", "bias", "spare"}, source="x")
    assert torch.equal(layer.weight, before)
    load_exactly(
        layer,
        {"weight": torch.ones(2, 2), "bias": torch.ones(2)},
        known={"weight"} | {"bias"},
        source="x",
    )
    assert torch.equal(layer.weight, torch.ones(2, 2))


def test_names_are_changed_rule_by_rule() -> None:
    state = {"features.0.w": torch.zeros(1), "features.1.w": torch.ones(1), "head": torch.ones(2)}
    rules = {r"^features\.": "blocks.", r"^blocks\.(\d)": r"layers.\1.mlp"}
    found = renamed(state, rules)
    assert list(found) == ["layers.0.mlp.w", "layers.1.mlp.w", "head"]
    assert found["head"] is state["head"]
    assert list(renamed(state, json.dumps(rules))) == list(found)
    assert renamed(state, None) == renamed(state, {}) == state


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"^blocks": "x"}, r"must change names .*'\^blocks' is in none of the 2: a\.w, b\.w"),
        ({"^[ab]": "c"}, r"must keep names apart, it gives two tensors the name c\.w, .* b\.w"),
        ({"(": "x"}, r"must hold regular expressions, '\(': 'x' is none"),
        ({"a": r"\2"}, r"must hold regular expressions, 'a': '.*2' is none: invalid group"),
        ("{a: b}", r"must be a mapping, as text a JSON object, got '\{a: b\}'"),
        ("[1]", r"must map regular expressions to text"),
        ('{"a": 1}', r"must map regular expressions to text"),
    ],
)
def test_rules_that_cannot_be_meant(rename: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        renamed({"a.w": torch.zeros(1), "b.w": torch.ones(1)}, rename)


def test_a_misfit_lists_the_first_names() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(200)))
    state = {f"features.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_exactly(model, state, known=(), source="FILE", renames=True)
    assert str(caught.value) == (
        "weights must fit the encoder, FILE does not: missing (400): 0.bias, 0.weight, 1.bias, "
        "1.weight, 10.bias, ...; surplus (400): features.0.bias, features.0.weight, features.1.bias, "
        "features.1.weight, features.10.bias, ...; encoder.rename changes names"
    )


@pytest.mark.slow
def test_rules_on_the_command_line(tmp_path: Path) -> None:
    encoder = build(compose("encoder=tiny").encoder)
    stored = {f"features.{name}": value for name, value in encoder.model.state_dict().items()}
    save_file(stored, tmp_path / "model.safetensors")
    words = ["encoder=tiny", f"encoder.weights={tmp_path}"]
    typed = typed_overrides([*words, r'++encoder.rename={"^features\\.": ""}'])
    loaded = build(compose(*typed).encoder)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, encoder.model.state_dict()[name])
