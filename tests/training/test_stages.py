"""Stages as changes to one config."""

from typing import Any

import pytest

from hdvl.training.stages import check_effect, merge, set_value, split_stages

BASE: dict[str, Any] = {
    "run_dir": "runs/x",
    "seed": 0,
    "tuning": {"encoder": "full", "llm": "full"},
    "optimizer": {"common": {"lr": 1.0}, "groups": {"llm": {"lr": None}}},
    "trainer": {"_target_": "lightning.pytorch.Trainer", "max_steps": 5},
    "data": {"train": {"_target_": "hdvl.data.conversations.LlavaConversations", "path": "a"}},
    "callbacks": {"save": {"folder": "${run_dir}/checkpoints"}},
}


def stages(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return split_stages(BASE | {"stages": list(changes)})


def test_without_stages_the_config_is_the_only_one() -> None:
    assert split_stages(BASE | {"stages": None}) == [BASE]
    assert split_stages(BASE) == [BASE]


def test_stages_change_the_base_each_for_itself() -> None:
    first, second = stages(
        {"name": "align", "tuning": {"llm": "frozen"}, "trainer": {"max_steps": 1}},
        {"name": "all", "optimizer": {"groups": {"llm": {"lr": 0.5}}}},
    )
    assert first["tuning"] == {"encoder": "full", "llm": "frozen"}
    assert first["trainer"]["max_steps"] == 1
    assert first["run_dir"] == "runs/x/1-align"
    assert second["tuning"] == BASE["tuning"]
    assert second["trainer"]["max_steps"] == 5
    assert second["optimizer"] == {"common": {"lr": 1.0}, "groups": {"llm": {"lr": 0.5}}}
    assert second["run_dir"] == "runs/x/2-all"
    assert "stages" not in first


def test_another_target_replaces_the_node() -> None:
    source = {"_target_": "hdvl.data.conversations.SyntheticConversations", "length": 3}
    (stage,) = stages({"name": "a", "data": {"train": source}})
    assert stage["data"]["train"] == source


def test_arguments_of_a_target_may_be_added() -> None:
    (stage,) = stages({"name": "a", "trainer": {"limit_val_batches": 2}})
    assert stage["trainer"] == BASE["trainer"] | {"limit_val_batches": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "stages must be null or have at least one stage"),
        ([{"tuning": {}}], r"stages\[0\].name must be letters, digits, .* got None"),
        ([{"name": "a b"}], r"stages\[0\].name must be .* got a b"),
        ([{"name": "a"}, {"name": "a"}], r"stages\[1\].name must be .* unlike the others"),
        ([{"name": "a", "llm": {}}], r"a stage may change tuning, .*, stages\[0\] has llm"),
        (
            [{"name": "a"}, {"name": "b", "tuning": {"lmm": "full"}}],
            r"stages\[1\].tuning.lmm is no key of the config, there is encoder, llm",
        ),
        (
            [{"name": "a", "trainer": {"max_step": 3}}],
            r"stages\[0\].trainer.max_step is no key of the config",
        ),
    ],
)
def test_wrong_stages_are_named(changes: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stages(*changes)


def test_merge_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": [1]}}
    merged = merge(base, {"a": {"b": [2]}}, "here")
    assert merged == {"a": {"b": [2]}}
    assert base == {"a": {"b": [1]}}


def test_set_value() -> None:
    config = {"trainer": {"max_steps": 1}}
    set_value(config, "trainer.max_steps", 2)
    assert config == {"trainer": {"max_steps": 2}}
    for path in ("trainer.steps", "trane.max_steps", "trainer.max_steps.more"):
        with pytest.raises(ValueError, match=f"{path} is no key of the run's config"):
            set_value(config, path, 3)


def test_a_change_that_every_stage_undoes_is_refused() -> None:
    one = {"name": "a", "trainer": {"max_steps": 1}, "tuning": {"_target_": "x"}, "data": None}
    two = {"name": "b", "trainer": {"max_steps": 2, "precision": "32-true"}}
    config = {"stages": [one, two]}
    check_effect(config, ["seed", "trainer", "trainer.precision", "tuning.llm", "data.batch_size"])
    check_effect({"stages": None}, ["trainer.max_steps"])
    check_effect({}, ["trainer.max_steps"])
    with pytest.raises(ValueError, match=r"trainer\.max_steps has no effect, every stage sets it"):
        check_effect(config, ["trainer.max_steps"])
    with pytest.raises(ValueError, match=r"data\.batch_size has no effect"):
        check_effect({"stages": [one]}, ["data.batch_size"])


def test_a_stage_is_changed_by_its_number() -> None:
    config: dict[str, Any] = BASE | {"stages": [{"name": "a"}, {"name": "b", "trainer": {}}]}
    set_value(config, "stages.0.optimizer.common.lr", 2.0)
    set_value(config, "stages.1.trainer.max_steps", 7)
    first, second = split_stages(config)
    assert first["optimizer"]["common"]["lr"] == 2.0 and second["trainer"]["max_steps"] == 7
    for wrong in ("stages.2.trainer.max_steps", "stages.b.data", "stages.0", "stages.2.name"):
        with pytest.raises(ValueError, match=f"{wrong} is no key of the run's config"):
            set_value(config, wrong, 1)
    with pytest.raises(ValueError, match=r"stages\.1\.data is no key"):
        set_value(BASE | {"stages": None}, "stages.1.data", 1)


def test_a_tuning_that_every_stage_undoes_is_refused() -> None:
    whole = {"encoder": "frozen", "bridge": "full", "merger": "full", "llm": "frozen"}
    with pytest.raises(
        ValueError, match="tuning has no effect, every stage sets that of every part"
    ):
        check_effect({"stages": [{"tuning": whole}, {"tuning": whole}]}, ["tuning"])
    check_effect({"stages": [{"tuning": whole}, {"tuning": {"llm": "full"}}]}, ["tuning"])
    check_effect({"stages": [{"tuning": {**whole, "llm": "lora"}}]}, ["tuning"])
