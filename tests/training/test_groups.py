"""Optimizer groups: complete, disjoint, printed as a table, and each with its own options."""

from typing import Any

import pytest
import torch
from torch import nn

from hdvl.training.groups import build_optimizer, group_table, layer_scales, parameter_groups


def make(vlm: nn.Module, node: dict[str, Any], **parts: dict[str, Any]) -> list[dict[str, Any]]:
    groups = {part: node["groups"][part] | parts.get(part, {}) for part in node["groups"]}
    return parameter_groups(vlm, groups, node["common"])


def by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {group["name"]: group for group in groups}


def test_every_trainable_parameter_is_in_exactly_one_group(
    vlm: nn.Module, optimizer_node: dict[str, Any]
) -> None:
    vlm.llm.requires_grad_(False)
    groups = make(vlm, optimizer_node, encoder={"layer_decay": 0.5})
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in vlm.parameters() if p.requires_grad}
    assert not any(name.startswith("llm") for name in by_name(groups))


def test_own_numbers_come_before_the_common(vlm: nn.Module, optimizer_node: dict[str, Any]) -> None:
    groups = by_name(
        make(vlm, optimizer_node, bridge={"lr": 1e-3, "warmup_steps": 7, "min_lr_ratio": 0.5})
    )
    assert set(groups) == {
        *("encoder", "encoder/no_decay", "bridge", "bridge/no_decay"),
        *("merger/no_decay", "llm", "llm/no_decay"),
    }
    bridge, llm = groups["bridge"], groups["llm"]
    assert (bridge["lr"], bridge["warmup_steps"], bridge["min_lr_ratio"]) == (1e-3, 7, 0.5)
    assert llm["lr"] == optimizer_node["common"]["lr"]
    assert groups["bridge/no_decay"]["lr"] == 1e-3


def test_vectors_are_not_decayed_and_embeddings_as_asked(
    vlm: nn.Module, optimizer_node: dict[str, Any]
) -> None:
    def decayed(groups: list[dict[str, Any]]) -> set[int]:
        return {id(p) for group in groups if group["weight_decay"] for p in group["params"]}

    matrices = {id(p) for p in vlm.parameters() if p.ndim == 2}
    embedding = id(vlm.llm.embed_tokens.weight)
    assert decayed(make(vlm, optimizer_node)) == matrices
    bare = make(vlm, optimizer_node, llm={"decay_embeddings": False})
    assert decayed(bare) == matrices - {embedding}
    assert id(vlm.encoder.cls_token) not in matrices


def test_layer_decay(vlm: nn.Module, optimizer_node: dict[str, Any]) -> None:
    groups = by_name(make(vlm, optimizer_node, encoder={"lr": 1.0, "layer_decay": 0.5}))
    rates = {name: group["lr"] for name, group in groups.items() if name.startswith("encoder")}
    assert rates == {
        "encoder/layer0": 0.5**4,  # patch embedding
        "encoder/layer0/no_decay": 0.5**4,
        "encoder/layer1": 0.5**3,
        "encoder/layer1/no_decay": 0.5**3,
        "encoder/layer2": 0.5**2,
        "encoder/layer2/no_decay": 0.5**2,
        "encoder/layer3": 0.5,
        "encoder/layer3/no_decay": 0.5,
        "encoder": 1.0,  # the final norm and what else follows the blocks
        "encoder/no_decay": 1.0,
    }
    assert any(p is vlm.encoder.patch_embed.weight for p in groups["encoder/layer0"]["params"])
    assert any(p is vlm.encoder.blocks[2].fc.weight for p in groups["encoder/layer3"]["params"])


def test_layers_of_side_by_side_towers_are_numbered_each_by_itself(vlm: nn.Module) -> None:
    fused = nn.Module()
    fused.encoders = nn.ModuleList([vlm.encoder, type(vlm.encoder)(8, 5)])
    scales = layer_scales(fused, 0.5)
    assert scales["encoders.0.blocks.0.fc.weight"] == ("layer1", 0.5**3)
    assert scales["encoders.1.blocks.0.fc.weight"] == ("layer1", 0.5**5)
    assert scales["encoders.1.patch_embed.weight"] == ("layer0", 0.5**6)
    assert scales["encoders.1.norm.weight"] == ("", 1.0)


def test_a_part_that_is_itself_the_list_of_blocks(vlm: nn.Module) -> None:
    assert layer_scales(vlm.bridge, 0.5)["2.weight"] == ("layer3", 0.5)


def test_the_optimizer_of_the_config(vlm: nn.Module, optimizer_node: dict[str, Any]) -> None:
    groups = make(vlm, optimizer_node, bridge={"lr": 1e-3})
    optimizer = build_optimizer(optimizer_node, groups)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["name"] for group in optimizer.param_groups] == [g["name"] for g in groups]
    assert {g["lr"] for g in optimizer.param_groups if g["part"] == "bridge"} == {1e-3}
    assert list(optimizer.param_groups[0]["betas"]) == [0.9, 0.95]


def test_the_table_names_every_group(vlm: nn.Module, optimizer_node: dict[str, Any]) -> None:
    lines = group_table(make(vlm, optimizer_node, bridge={"lr": 1e-3})).splitlines()
    assert lines[0].split() == "group tensors parameters lr decay warm-up min_lr_ratio".split()
    row = next(line for line in lines if line.startswith("bridge "))
    assert row.split() == ["bridge", "2", "128", "0.001", "0.05", "0.03", "0"]


def test_a_parameter_outside_the_parts_is_named(
    vlm: nn.Module, optimizer_node: dict[str, Any]
) -> None:
    vlm.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(
        ValueError, match=r"each trainable parameter must belong .*, scale does not"
    ):
        make(vlm, optimizer_node)


def test_a_parameter_in_two_parts_is_named(vlm: nn.Module, optimizer_node: dict[str, Any]) -> None:
    vlm.llm.layers[0].fc = vlm.bridge[0]
    with pytest.raises(ValueError, match=r"llm\.layers.0.fc.weight is also in bridge.0.weight"):
        make(vlm, optimizer_node)


def test_nothing_to_train_is_an_error(vlm: nn.Module, optimizer_node: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing is trainable"):
        make(vlm.requires_grad_(False), optimizer_node)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 1}, "optimizer.groups.bridge must have options of lr, .*, got learning"),
        ({"lr": -1.0}, "must be at least 0, got -1.0"),
        (
            {"min_lr_ratio": 2.0},
            r"min_lr_ratio of bridge must be in 0..1 and layer_decay in \(0, 1\], got 2.0",
        ),
        ({"layer_decay": 0.0}, "and 0.0"),
    ],
)
def test_wrong_options_are_named(
    vlm: nn.Module, optimizer_node: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(vlm, optimizer_node, bridge=options)


def test_wrong_parts_and_missing_common_are_named(
    vlm: nn.Module, optimizer_node: dict[str, Any]
) -> None:
    common = optimizer_node["common"]
    with pytest.raises(ValueError, match=r"optimizer.groups must name parts .*, got vision"):
        parameter_groups(vlm, {"vision": {}}, common)
    with pytest.raises(ValueError, match=r"optimizer.common.lr must be a number, got null"):
        parameter_groups(vlm, {}, common | {"lr": None})


def test_layer_decay_without_layers_is_an_error(vlm: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"layer_decay=0\.5 needs a list of blocks, Linear has none"
    ):
        layer_scales(nn.Linear(2, 2), 0.5)
