"""Hashes show which tensors changed, and a run that changed others stops."""

from typing import Any

import pytest
import torch
from torch import nn

from hdvl.training.audit import (
    check_moved,
    declared_tensors,
    fingerprint,
    fingerprints,
    shorten,
    tuning_table,
)
from hdvl.training.tuning import apply_tuning

LORA = {"common": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}}
TUNING: dict[str, Any] = {
    "encoder": "frozen",
    "bridge": "full",
    "merger": "full",
    "llm": "lora",
    "lora": LORA,
}


def test_fingerprints_follow_the_bytes() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(tensor) == fingerprint(tensor.clone())
    assert fingerprint(tensor) != fingerprint(tensor + 1e-6)
    assert fingerprint(tensor.bfloat16()) != fingerprint(tensor.half())
    assert fingerprint(torch.tensor(3)) == fingerprint(torch.tensor([3]))


def test_declared_tensors(vlm: nn.Module) -> None:
    apply_tuning(vlm, TUNING)
    declared = declared_tensors(vlm, TUNING)
    assert {name for name in declared if not name.startswith("llm")} == {
        *("bridge.0.weight", "bridge.0.bias", "bridge.2.weight", "bridge.2.bias", "merger.newline")
    }
    assert all("lora_" in name for name in declared if name.startswith("llm"))


def test_statistics_of_a_full_part_may_change(vlm: nn.Module) -> None:
    full = TUNING | {"encoder": "full"}
    apply_tuning(vlm, full)
    assert "encoder.batch_norm.running_mean" in declared_tensors(vlm, full)


def test_a_tied_weight_is_declared_under_all_its_names(vlm: nn.Module) -> None:
    vlm.llm.lm_head.weight = vlm.llm.embed_tokens.weight
    full = TUNING | {"llm": "full"}
    apply_tuning(vlm, full)
    assert {"llm.lm_head.weight", "llm.embed_tokens.weight"} <= declared_tensors(vlm, full)


def test_declared_changes_pass_and_unchanged_tensors_are_reported(vlm: nn.Module) -> None:
    apply_tuning(vlm, TUNING)
    before = fingerprints(vlm)
    with torch.no_grad():
        vlm.bridge[0].weight += 1
    still = check_moved(before, vlm, TUNING)
    assert "bridge.2.weight" in still
    assert "bridge.0.weight" not in still


@pytest.mark.parametrize("name", ["encoder.norm.weight", "encoder.batch_norm.running_mean"])
def test_an_undeclared_change_is_an_error(vlm: nn.Module, name: str) -> None:
    apply_tuning(vlm, TUNING)
    before = fingerprints(vlm)
    vlm.state_dict()[name].add_(1)
    with pytest.raises(RuntimeError, match=f"only declared parameters may move, .*: {name};"):
        check_moved(before, vlm, TUNING)


def test_the_table_says_what_trains(vlm: nn.Module) -> None:
    apply_tuning(vlm, TUNING)
    lines = [line.split() for line in tuning_table(vlm, TUNING).splitlines()]
    assert lines[1] == ["bridge", "full", "144", "of", "144", "train"]
    assert lines[0][:3] == ["encoder", "frozen", "0"]


def test_long_lists_are_shortened() -> None:
    assert shorten({"b", "a"}) == "a, b"
    assert shorten(set("abcdefg")) == "a, b, c, d, e and 2 more"
