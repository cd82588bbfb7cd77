"""All combinations of encoder, bridge, merger and tiler in conf/ compose, or an override is suggested.

All are built on the ``meta`` device. Parts are cached, because one encoder takes part in thousands of
compositions.
"""

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import hdvl
from hdvl.catalogue import choices
from hdvl.checkpoints import load_folder, save_folder
from hdvl.checkpoints.native import read_config
from hdvl.config import build, compose, to_plain
from hdvl.meta import on_meta
from hdvl.misfits import MOST, mending, with_override
from hdvl.probe import (
    check_layouts,
    check_token_order,
    fitted_tiler,
    from_factory,
    trial_plans,
)
from hdvl.protocols import TilePlan

GROUPS = ("encoder", "bridge", "merger", "tiler")
WIDTH = 64
NEEDS_MORE = "from"
"""The choices that need the folder of a model."""


def named(group: str) -> list[str]:
    """The choices of a group that are complete by their names alone."""
    return [choice for choice in choices(group) if choice != NEEDS_MORE]


@cache
def node_of(group: str, choice: str) -> str:
    return json.dumps(to_plain(compose(f"{group}={choice}", config_name="tile")[group]))


@cache
def encoder_of(choice: str) -> Any:
    return on_meta(json.loads(node_of("encoder", choice)))


@cache
def bridge_of(encoder: str, bridge: str) -> Any:
    found = encoder_of(encoder)
    with torch.device("meta"):
        return from_factory(
            "bridge",
            on_meta(json.loads(bridge)),
            in_width=found.width,
            out_width=WIDTH,
            grid=found.grid,
        )


@cache
def merger_of(encoder: str, bridge: str, merger: str) -> Any:
    found, bridged = encoder_of(encoder), bridge_of(encoder, bridge)
    with torch.device("meta"):
        built = from_factory(
            "merger",
            on_meta(json.loads(merger)),
            grid=found.grid,
            grid_for=found.grid_for,
            out_grid=bridged.grid_for,
            width=WIDTH,
        )
    check_token_order(bridged, built)
    return built


@cache
def plans_of(encoder: str, bridge: str, tiler: str) -> list[TilePlan]:
    built = build(json.loads(tiler))
    return trial_plans(fitted_tiler(built, encoder_of(encoder), bridge_of(encoder, bridge)))


def refusal(encoder: str, nodes: dict[str, str]) -> str | None:
    """Why the parts do not go together, as the model would say it; None if they do."""
    try:
        plans = plans_of(encoder, nodes["bridge"], nodes["tiler"])
        check_layouts(plans, merger_of(encoder, nodes["bridge"], nodes["merger"]))
    except ValueError as error:
        return str(error)
    return None


def changed(nodes: dict[str, str], overrides: dict[str, str]) -> dict[str, str]:
    """The parts with all ``overrides`` at once: chosen parts, and then single values."""
    nodes = dict(nodes)
    for key, value in sorted(overrides.items(), key=lambda item: "." in item[0]):
        part, _, name = key.partition(".")
        if not name:
            nodes[part] = node_of(part, value)
            continue
        node = json.loads(nodes[part])
        assert name in node
        nodes[part] = json.dumps(node | {name: json.loads(value) if value.isdigit() else value})
    return nodes


def overrides_needed(encoder: str, bridge: str, merger: str, tiler: str) -> int:
    """How many misfits there are; the overrides of all messages, given together, mend them."""
    names = {"bridge": bridge, "merger": merger, "tiler": tiler}
    nodes = {group: node_of(group, choice) for group, choice in names.items()}
    messages, overrides = list[str](), dict[str, str]()
    while message := refusal(encoder, changed(nodes, overrides)):
        messages.append(message)
        assert len(messages) <= MOST - 2, (encoder, names, messages)
        found = mending(message)
        assert found, f"no override is named: {message}"
        overrides = with_override(overrides, *found)
    return len(messages)


def test_some_compositions() -> None:
    assert overrides_needed("tiny", "mlp", "concat", "anyres") == 0
    assert overrides_needed("tiny", "pixel_shuffle_mlp", "concat", "sliding_window") == 1
    assert overrides_needed("tiny", "mlp", "spatial", "sliding_window") == 1
    assert overrides_needed("tiny", "mlp", "overlap_blend", "llava_next") == 1
    assert overrides_needed("tiny", "mlp", "concat", "native") <= 1


@pytest.mark.slow
@pytest.mark.parametrize("encoder", named("encoder"))
def test_all_compositions(encoder: str) -> None:
    others = [named(group) for group in GROUPS[1:]]
    counts = [overrides_needed(encoder, *parts) for parts in itertools.product(*others)]
    # Published tilers have the tile size of their system, and the grids of some encoders have odd sides, so
    # that one override is common. More are needed where several pairs of parts do not fit.
    assert sum(count <= 1 for count in counts) / len(counts) > 0.4, sorted(counts)


@pytest.mark.slow
def test_models_agree_with_the_checks_of_compositions() -> None:
    """For a random sample, building the model from overrides has the same outcome."""
    source = random.Random(0)
    for _ in range(12):
        parts = {group: source.choice(named(group)) for group in GROUPS}
        nodes = {group: node_of(group, choice) for group, choice in parts.items()}
        expected = refusal(parts["encoder"], {group: nodes[group] for group in GROUPS[1:]})
        words = [f"{group}={choice}" for group, choice in parts.items()]
        model = compose(*words, "llm=tiny").model
        if expected is None:
            assert on_meta(model).merger is not None
        else:
            with pytest.raises(ValueError) as caught:
                on_meta(model)
            assert str(caught.value) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "stride", "multiple_of"),
    [
        (["encoder=tiny"], 192, 32),
        (["encoder=siglip2"], 320, 16),
        (["encoder=siglip2", "bridge=pixel_shuffle_mlp"], 320, 32),
        (["encoder=siglip2", "tiler.stride=192"], 192, 16),
        (["encoder=siglip2", "tiler.tile_size=384", "tiler.stride=384"], 384, 16),
        (["model=small"], 192, 32),
    ],
)
def test_the_tiler_follows_the_encoder(words: list[str], stride: int, multiple_of: int) -> None:
    vlm = on_meta(hdvl.compose(*words).model)
    assert vlm.tiler.tile_size == vlm.encoder.tile_size
    assert (vlm.tiler.stride, vlm.tiler.multiple_of) == (stride, multiple_of)


def test_a_size_that_is_given_stays() -> None:
    model = hdvl.compose("tiler.tile_size=100", "tiler.stride=100", "tiler.multiple_of=4").model
    with pytest.raises(
        ValueError, match=r"tiler.tile_size=100 must equal .* set tiler.tile_size=224"
    ):
        on_meta(model)


def test_an_old_factory_is_named() -> None:
    def factory(*, grid: Any, out_grid: Any, width: int) -> None:
        raise AssertionError("not called")

    with pytest.raises(
        ValueError, match=r"the merger's factory must take grid, grid_for, .*MergerFactory"
    ):
        from_factory("merger", factory, grid=1, grid_for=1, out_grid=1, width=1)


def test_blank_windows_cannot_be_left_out_of_a_grid() -> None:
    words = ("tiler=squash", "tiler.grid=[2,2]", "tiler.skip_blank=true", "merger=spatial")
    with pytest.raises(
        ValueError, match=r"skip_blank=true .* set tiler.skip_blank=false or merger=concat"
    ):
        on_meta(hdvl.compose(*words).model)


@pytest.mark.slow
def test_saved_models_hold_the_sizes_that_the_tiler_took(tmp_path: Path) -> None:
    config = to_plain(compose("bridge=mlp"))
    vlm = build(config["model"])
    folder = save_folder(vlm, tmp_path / "model", {"model": config["model"]})
    stored = read_config(folder)["model"]["tiler"]
    assert (stored["tile_size"], stored["stride"], stored["multiple_of"]) == (224, 192, 32)
    assert load_folder(folder).tiler == vlm.tiler
