"""Trained parameters, merging of adapters, and modules that stay in evaluation mode."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from hdvl.training.tuning import (
    MODULES,
    apply_tuning,
    has_lora,
    merge_lora,
    moves_buffer,
    set_modes,
)
from tests.tiny_model import NODE, tiny_node, tiny_vlm

LORA = {"common": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}}
MODES = ("frozen", "full", "lora", "dora")


def tuning(**modes: str) -> dict[str, Any]:
    """Everything frozen but for ``modes``."""
    return {part: modes.get(part, "frozen") for part in MODULES} | {"lora": LORA}


def train_step(vlm: nn.Module) -> None:
    """One step of plain gradient descent with every trainable parameter."""
    trainable = [parameter for parameter in vlm.parameters() if parameter.requires_grad]
    vlm.zero_grad()
    vlm.loss().backward()
    with torch.no_grad():
        for parameter in trainable:
            assert parameter.grad is not None
            parameter -= parameter.grad


def snapshot(vlm: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in vlm.state_dict().items()}


@pytest.mark.slow_beyond(2, every=10)
@pytest.mark.parametrize(
    "modes",
    [pytest.param(modes) for modes in itertools.product(MODES, repeat=3)],
    ids=lambda modes: "-".join(modes),
)
def test_exactly_the_declared_parts_move(vlm: Any, modes: tuple[str, str, str]) -> None:
    chosen = tuning(**dict(zip(("encoder", "bridge", "llm"), modes, strict=True)))
    if set(modes) == {"frozen"}:
        chosen["merger"] = "full"
    apply_tuning(vlm, chosen)
    before = snapshot(vlm)
    for _ in range(2):  # the first step moves lora_B only
        train_step(vlm)
    moved = {name for name, tensor in vlm.state_dict().items() if not tensor.equal(before[name])}
    assert moved, "something trains"
    for part in MODULES:
        names = {name for name in moved if name.startswith(f"{part}.")}
        if chosen[part] == "frozen":
            assert not names
        elif chosen[part] in ("lora", "dora"):
            assert names and all("lora_" in name for name in names)
        else:
            assert {n.split(".", 1)[1] for n in names} >= {
                n
                for n, p in vlm.get_submodule(part).named_parameters()
                if p.grad is not None and p.grad.any()
            }


def test_adapters_change_nothing_at_first_and_merge_to_equal_weights(vlm: Any) -> None:
    vlm.eval()
    with torch.no_grad():
        plain = vlm.loss()
        names = set(vlm.state_dict())
        apply_tuning(vlm, tuning(encoder="lora", bridge="lora", llm="lora"))
        assert has_lora(vlm)
        vlm.eval()
        torch.testing.assert_close(vlm.loss(), plain, rtol=0, atol=1e-6)
    for _ in range(3):
        train_step(vlm)
    vlm.eval()
    with torch.no_grad():
        trained = vlm.loss()
        assert abs(trained - plain) > 1e-3
        assert merge_lora(vlm) is vlm
        torch.testing.assert_close(vlm.loss(), trained, rtol=0, atol=1e-6)
    assert not has_lora(vlm)
    assert set(vlm.state_dict()) == names


def test_merged_model_takes_a_new_tuning(vlm: Any) -> None:
    apply_tuning(vlm, tuning(llm="lora"))
    with pytest.raises(ValueError, match="the model has adapters already; merge_lora"):
        apply_tuning(vlm, tuning(llm="full"))
    merge_lora(vlm)
    apply_tuning(vlm, tuning(llm="dora"))
    assert len([name for name in vlm.llm.state_dict() if "lora_A" in name]) == 2
    merge_lora(vlm)
    apply_tuning(vlm, tuning(llm="full"))
    assert all(parameter.requires_grad for parameter in vlm.llm.parameters())


def test_the_output_head_gets_no_adapter(vlm: Any) -> None:
    apply_tuning(vlm, tuning(llm="lora"))
    adapted = {name for name, _ in vlm.llm.named_parameters() if "lora_" in name}
    assert any(name.startswith("layers.0.fc") for name in adapted)
    assert not any("lm_head" in name for name in adapted)


def test_torch_attention_is_adapted_without_touching_its_weights(vlm: Any) -> None:
    apply_tuning(vlm, tuning(encoder="lora"))
    attention = vlm.encoder.attention
    original = attention.parametrizations.in_proj_weight.original.clone()
    for _ in range(3):
        train_step(vlm)
    assert attention.parametrizations.in_proj_weight.original.equal(original)
    assert not attention.in_proj_weight.equal(original)


def test_frozen_parts_stay_in_evaluation_mode(vlm: Any) -> None:
    chosen = tuning(bridge="full", llm="lora")
    apply_tuning(vlm, chosen)
    vlm.train()
    set_modes(vlm, chosen)
    assert not any(module.training for module in vlm.encoder.modules())
    assert vlm.bridge.training and vlm.llm.training
    statistics = vlm.encoder.batch_norm.running_mean.clone()
    train_step(vlm)
    assert vlm.encoder.batch_norm.running_mean.equal(statistics)


def test_lora_keeps_the_statistics_of_batch_norms(vlm: Any) -> None:
    apply_tuning(vlm, tuning(encoder="lora"))
    assert vlm.encoder.blocks[0].dropout.training
    assert not vlm.encoder.batch_norm.training


def test_a_frozen_encoder_makes_no_graph(vlm: Any) -> None:
    apply_tuning(vlm, tuning(bridge="full"))
    assert vlm.encoder(torch.rand(1, 4, 3)).grad_fn is None


def test_own_lora_options_come_before_the_common_ones(vlm: Any) -> None:
    chosen = tuning(llm="lora", bridge="lora")
    chosen["lora"] = LORA | {"llm": {"rank": 3, "alpha": None, "dropout": None, "targets": ["fc"]}}
    apply_tuning(vlm, chosen)
    shapes = {
        p.shape[0] for n, p in vlm.named_parameters() if n.startswith("llm") and "lora_A" in n
    }
    assert shapes == {3}
    assert vlm.bridge[0].lora_A["default"].weight.shape[0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llm": "lora8"}, "tuning.llm must be one of frozen, full, lora, dora, qlora, got lora8"),
        ({"vision": "full"}, r"tuning must name parts \(encoder, .*\) or lora, got vision"),
        ({"lora": {}}, "tuning.lora of llm must give alpha, dropout, rank, targets, got nothing"),
        ({"lora": {"common": LORA["common"] | {"rank": 0}}}, "must have rank >= 1 and dropout"),
        (
            {"lora": {"common": LORA["common"] | {"targets": ["q_proj"]}}},
            "each LoRA target must be in llm, q_proj is not; change tuning.lora.llm.targets",
        ),
        ({"merger": "lora"}, "tuning.merger=lora needs a linear layer, ParameterDict has none"),
        (
            {"encoder": "lora", "lora": {"common": LORA["common"] | {"targets": ["out_proj"]}}},
            "a LoRA target must be a layer that is called, encoder.attention.out_proj inside",
        ),
    ],
)
def test_wrong_choices_are_named(vlm: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_tuning(vlm, tuning(llm="lora") | change)


def test_dora_starts_as_the_identity_in_torch_attention_too(vlm: Any) -> None:
    weight = vlm.encoder.attention.in_proj_weight.detach().clone()
    apply_tuning(vlm, tuning(encoder="dora"))
    assert vlm.encoder.attention.in_proj_weight.equal(weight)
    assert "parametrizations.in_proj_weight.0.lora_magnitude" in vlm.encoder.attention.state_dict()
    for _ in range(3):
        train_step(vlm)
    adapted = vlm.encoder.attention.in_proj_weight.detach().clone()
    matrix = vlm.encoder.attention.parametrizations.in_proj_weight[0]
    lengths = adapted.norm(dim=1)
    torch.testing.assert_close(lengths, matrix.lora_magnitude.detach())
    assert not lengths.allclose(weight.norm(dim=1))
    merge_lora(vlm)
    assert vlm.encoder.attention.in_proj_weight.equal(adapted)


def test_dropout_inside_torch_attention_is_refused(vlm: Any) -> None:
    chosen = tuning(encoder="lora") | {"lora": {"common": LORA["common"] | {"dropout": 0.1}}}
    with pytest.raises(ValueError, match=r"tuning\.lora\.encoder\.dropout must be 0 .*, got 0\.1"):
        apply_tuning(vlm, chosen)


def test_named_layers_are_trained_in_a_frozen_part(vlm: Any) -> None:
    chosen = tuning(llm="lora", encoder="frozen") | {
        "also": {"llm": ["embed_tokens", "lm_head"], "encoder": ["cls_token"]}
    }
    apply_tuning(vlm, chosen)
    full = {n for n, p in vlm.named_parameters() if p.requires_grad and "lora_" not in n}
    assert full == {"encoder.cls_token", "llm.embed_tokens.weight", "llm.lm_head.weight"}


def test_named_layers_stay_frozen_in_a_trained_part(vlm: Any) -> None:
    chosen = tuning(encoder="full") | {"keep": {"encoder": ["batch_norm", "blocks.0.fc.weight"]}}
    apply_tuning(vlm, chosen)
    kept = {n for n, p in vlm.encoder.named_parameters() if not p.requires_grad}
    assert kept == {"batch_norm.weight", "batch_norm.bias", "blocks.0.fc.weight"}
    assert not vlm.encoder.batch_norm.training and vlm.encoder.norm.training
    before = snapshot(vlm)
    train_step(vlm)
    assert vlm.encoder.batch_norm.running_mean.equal(before["encoder.batch_norm.running_mean"])
    assert not moves_buffer(vlm, chosen, "encoder.batch_norm.running_mean")
    assert moves_buffer(vlm, tuning(encoder="full"), "encoder.batch_norm.running_mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"new_tokens": "lora"}, "tuning.new_tokens must be frozen, full or null, got lora"),
        ({"also": {"vision": ["x"]}}, r"tuning.also must name parts \(.*\), got vision"),
        ({"lora": {"common": {}, "head": {}}}, r"tuning.lora must name parts \(.*\), got head"),
        ({"keep": {"llm": ["head"]}}, "each name of tuning.keep.llm must be in llm, head is not"),
    ],
)
def test_wrong_names_are_named(vlm: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_tuning(vlm, tuning(llm="full") | change)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("mode", ["lora", "dora"])
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_tied_weight_gets_no_adapter(mode: str, target: str) -> None:
    vlm = tiny_vlm()
    lora = {"common": LORA["common"], "llm": {"targets": [target, "q_proj"]}}
    with pytest.raises(
        ValueError, match=rf"must have a weight of its own, llm\..*{target} is tied to"
    ):
        apply_tuning(vlm, {**tuning(llm=mode), "lora": lora})
    numbers = {**NODE["llm"]["config"], "tie_word_embeddings": False}
    untied = tiny_vlm(tiny_node(llm={"config": numbers}))
    apply_tuning(untied, {**tuning(llm=mode), "lora": lora})
    assert any(target in name and "lora_" in name for name, _ in untied.named_parameters())


def test_a_merge_that_changes_the_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny_vlm()
    apply_tuning(vlm, tuning(llm="lora"))
    monkeypatch.setattr("hdvl.training.adapters._check_own_weight", lambda *_: None)
    merge_lora(vlm)
    lora = {"common": LORA["common"], "llm": {"targets": ["lm_head"]}}
    apply_tuning(vlm, {**tuning(llm="lora"), "lora": lora})
    for name, parameter in vlm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with pytest.warns(
        UserWarning, match="merging the adapters moved the logits of the language mod"
    ):
        merge_lora(vlm)
