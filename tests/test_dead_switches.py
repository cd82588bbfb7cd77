"""No key of the optimizer or of the tuning is dead, and a key that is not known is an error.

Keys of ``optimizer`` and ``tuning`` are turned one by one: what trains, or how, must change.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError
from torch import nn

from hdvl.config import CONF_DIR, compose, to_plain
from hdvl.data.build import build_data
from hdvl.model import VLM
from hdvl.training.groups import build_optimizer, parameter_groups
from hdvl.training.schedule import build_scheduler
from hdvl.training.stages import split_stages
from hdvl.training.tuning import MODULES, apply_tuning
from tests.test_conf import PRIMARY, name_of
from tests.tiny_model import tiny_vlm

# --- the optimizer's and the tuning's keys ------------------------------------------------------


class Part(nn.Module):
    """Every kind of layer that an option may be about."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.norm = nn.LayerNorm(8)


VALUES: dict[str, Any] = {
    **{"lr": 1e-3, "weight_decay": 0.3, "warmup_steps": 7, "min_lr_ratio": 0.5, "layer_decay": 0.5},
    **{"decay_embeddings": False, "betas": [0.5, 0.6], "eps": 1e-4, "schedule": "linear"},
    **{"rank": 3, "alpha": 5, "dropout": 0.3, "targets": ["0"], "tokens": ["<|im_end|>"]},
    **{"new_tokens": "frozen", **dict.fromkeys(MODULES, "frozen")},
    **{"factory._target_": "torch.optim.NAdam"},
    **{f"{option}.{part}": ["norm"] for option in ("also", "keep") for part in MODULES},
}
"""For each key a value that it has not, by the key or by its end."""

LOSS = {"weighting", "first_token_weight"}
"""Keys of the optimizer that the loss reads."""


def leaves(node: dict[str, Any], place: str = "") -> Iterator[str]:
    """Dotted keys of the values."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}"


def turned(node: dict[str, Any], key: str) -> dict[str, Any]:
    """``node`` with another value of ``key``."""
    ends = [".".join(key.split(".")[start:]) for start in range(key.count(".") + 1)]
    value = next((VALUES[end] for end in ends if end in VALUES), None)
    assert value is not None, f"{key} is new: give it a value in VALUES"
    config = OmegaConf.create(deepcopy(node))
    OmegaConf.update(config, key, value)
    plain: dict[str, Any] = to_plain(config)
    assert plain != node, f"{key} has the value in VALUES already; give it another"
    return plain


@pytest.fixture(scope="module")
def model() -> VLM:
    vlm = tiny_vlm()
    for part in ("encoder", "bridge", "merger"):
        setattr(vlm, part, Part())
    return vlm


def outcome(vlm: VLM, optimizer: dict[str, Any], tuning: dict[str, Any]) -> Any:
    """What trains and how, as a value to compare; or the error that names what is wrong."""
    tuned = deepcopy(vlm)
    torch.manual_seed(0)
    try:
        apply_tuning(tuned, tuning)
        groups = parameter_groups(tuned, optimizer["groups"], optimizer["common"])
        made = build_optimizer(optimizer, groups)
        schedule = build_scheduler(made, total_steps=100, schedule=optimizer["schedule"])
    except ValueError as error:
        return str(error)
    names = {id(parameter): name for name, parameter in tuned.named_parameters()}
    return (
        type(made),
        {name: (p.shape, p.requires_grad) for name, p in tuned.named_parameters()},
        [[names[id(p)] for p in group["params"]] for group in groups],
        [[value for key, value in group.items() if key != "params"] for group in made.param_groups],
        [[factor(step) for step in (0, 5, 50, 100)] for factor in schedule.lr_lambdas],
        [(m.p, m.training) for m in tuned.modules() if isinstance(m, nn.Dropout)],
        [getattr(m, "scaling", None) or getattr(m, "scale", None) for m in tuned.modules()],
    )


def plain(file: str) -> dict[str, Any]:
    node: dict[str, Any] = to_plain(OmegaConf.load(CONF_DIR / file))
    return node


OPTIMIZER, TUNING = plain("optimizer/adamw.yaml"), plain("tuning/full.yaml")
BASES = (
    {**TUNING, "new_tokens": "full"},
    {**TUNING, **dict.fromkeys(MODULES, "lora"), "new_tokens": "full"},
)


@pytest.fixture(scope="module")
def before(model: VLM) -> list[Any]:
    found = [outcome(model, OPTIMIZER, tuning) for tuning in BASES]
    assert not [text for text in found if isinstance(text, str)]
    return found


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("key", sorted(set(leaves(OPTIMIZER)) - LOSS - {"factory._partial_"}))
def test_every_key_of_the_optimizer_changes_something(
    key: str, model: VLM, before: list[Any]
) -> None:
    changed = turned(OPTIMIZER, key)
    assert [outcome(model, changed, tuning) for tuning in BASES] != before


@pytest.mark.slow_beyond(2, every=15)
@pytest.mark.parametrize("key", sorted(leaves(TUNING)))
def test_every_key_of_the_tuning_changes_something(key: str, model: VLM, before: list[Any]) -> None:
    assert [outcome(model, OPTIMIZER, turned(tuning, key)) for tuning in BASES] != before


# --- keys that are none -------------------------------------------------------------------------


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "override",
    [
        "optimizer.groups.bridge.lrr=1e-3",
        "optimizer.factory.beta=[0.9,0.95]",
        "optimizer.groups.new_tokens.layer_decay=0.9",
        "tuning.lora.llm.rnk=4",
        "tuning.enc=frozen",
        "tuning.also.bridge_=[norm]",
        "data.train.documents.entires=[1,2]",
        "data.packin=null",
        "llm.config.hiden_size=8",
        "llm.tokenizer.vocab=512",
        "template.sytem=x",
        "trainer.max_step=3",
        "callbacks.guard.spikes=3",
        "logger.tensorboard.dir=x",
        "model.encode_chunks=3",
    ],
)
def test_a_misspelt_key_is_refused(override: str) -> None:
    with pytest.raises(ConfigCompositionException, match=override.split("=")[0].split(".")[-1]):
        compose(override)


def nodes(config: DictConfig) -> Iterator[DictConfig]:
    yield config
    for key in config:
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            yield from nodes(config[key])


@pytest.mark.slow_beyond(2, every=8)
@pytest.mark.parametrize("path", PRIMARY, ids=name_of)
def test_no_place_of_a_config_takes_a_new_key(path: Path) -> None:
    """Hydra's overrides set values of a config that is closed, down to its last node."""
    found = 0
    for node in nodes(compose(config_name=path.stem)):
        with pytest.raises(ConfigAttributeError, match="no_such_key"):
            node.no_such_key = 1
        found += 1
    assert found > 0


def apply(tuning: dict[str, Any]) -> Callable[[VLM], object]:
    return lambda vlm: apply_tuning(deepcopy(vlm), tuning)


def optimise(optimizer: dict[str, Any]) -> Callable[[VLM], object]:
    def run(vlm: VLM) -> None:
        groups = parameter_groups(vlm, optimizer["groups"], optimizer["common"])
        build_optimizer(optimizer, groups)

    return run


def feed(**keys: Any) -> Callable[[VLM], object]:
    data = compose().data
    OmegaConf.set_struct(data, False)
    return lambda vlm: build_data(to_plain(OmegaConf.merge(data, keys)), vlm, seed=0)


def stage(**keys: Any) -> Callable[[VLM], object]:
    base: Any = OmegaConf.to_container(compose(), resolve=False)
    return lambda vlm: split_stages({**base, "stages": [{"name": "a", **keys}]})


WRONG: dict[str, tuple[Callable[[], Callable[[VLM], object]], str]] = {
    "+tuning.enc": (lambda: apply({**TUNING, "enc": "full"}), "tuning must name parts .* got enc"),
    "+tuning.lora.llm.rnk": (
        lambda: apply({**TUNING, "lora": {**TUNING["lora"], "llm": {"rnk": 4}}}),
        r"tuning\.lora\.llm must have options of .* got rnk",
    ),
    "+optimizer.shap": (
        lambda: optimise({**OPTIMIZER, "shap": "linear"}),
        "optimizer must have keys of factory, schedule, .* got shap",
    ),
    "+optimizer.groups.bridge.lrr": (
        lambda: optimise({**OPTIMIZER, "groups": {"bridge": {"lrr": 1e-3}}}),
        r"optimizer\.groups\.bridge must have options of .* got lrr",
    ),
    "+optimizer.groups.new_tokens.layer_decay": (
        lambda: optimise({**OPTIMIZER, "groups": {"new_tokens": {"layer_decay": 0.9}}}),
        r"optimizer\.groups\.new_tokens\.layer_decay must be null",
    ),
    "+data.bach_size": (lambda: feed(bach_size=3), "data must have keys of .* got bach_size"),
    "stages[0].data.bach_size": (
        lambda: stage(data={"bach_size": 3}),
        r"stages\[0\]\.data\.bach_size is no key of the config",
    ),
    "stages[0].tuning.lora.llm.rnk": (
        lambda: stage(tuning={"lora": {"llm": {"rnk": 3}}}),
        r"stages\[0\]\.tuning\.lora\.llm\.rnk is no key of the config",
    ),
    "stages[0].model": (lambda: stage(model={}), r"a stage may change .* stages\[0\] has model"),
}
"""Keys that are forced in with ``+``, or stand in a stage: what the code says about them."""


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize("key", WRONG)
def test_a_forced_key_is_named(key: str, model: VLM) -> None:
    make, message = WRONG[key]
    with pytest.raises(ValueError, match=message):
        make()(model)
