"""Every mistake on a command line ends with one line that says what to do."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object

import hdvl
from hdvl import infer, train
from hdvl.command import command
from hdvl.config import to_plain
from hdvl.keys import check_added, unknown_key
from hdvl.overrides import RENAMED


def said_by(module: Any, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command given ``words`` ends with."""
    monkeypatch.setattr(sys, "argv", ["hdvl", *words])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert isinstance(caught.value.code, str) and "\n" not in caught.value.code
    return caught.value.code


@pytest.mark.slow
def test_the_command_line_chooses_parts_beside_an_experiment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "argv", ["hdvl", "experiment=smoke", "llm=tiny_llama"])
    command("train", found.append)
    assert found[0]["llm"]["config"]["model_type"] == "llama"


def test_free_text_is_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "argv", ["hdvl", "prompt=???", "system=\\${x}"])
    command("infer", found.append)
    assert (found[0]["prompt"], found[0]["system"]) == ("???", "\\${x}")


@pytest.mark.slow
def test_missing_files_of_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    said = said_by(infer, ["prompt=What?", "checkpoint=\u65e0/(1)"], monkeypatch)
    assert said.startswith("hdvl infer: ") and "\u65e0/(1)" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("initialise", "init_from"),
        ("optimizer.shape", "optimizer.schedule"),
        ("stages.0.optimizer.groups.llm.floor", "stages.0.optimizer.groups.llm.min_lr_ratio"),
    ],
)
def test_old_names(key: str, now: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f"hdvl train: {key} is called {now} now; use that name"
    assert said_by(train, [f"{key}=1"], monkeypatch) == expected
    top, _, rest = key.removeprefix("stages.0.").partition(".")
    stored: Any = 1
    for name in reversed(rest.split(".") if rest else []):
        stored = {name: stored}
    config = {top: stored}
    (tmp_path / "train.yaml").write_text(
        yaml.safe_dump({"stages": [config]} if key.startswith("stages") else config)
    )
    assert said_by(train, [f"resume={tmp_path}"], monkeypatch) == expected


def test_new_names_are_in_the_configuration() -> None:
    plain = {name: to_plain(hdvl.compose(config_name=name)) for name in ("plan", "serve")}
    for new in RENAMED.values():
        node = plain["serve" if new.startswith("engine.") else "plan"]
        for name in new.split("."):
            assert name in node, new
            node = node[name]


def test_arguments_of_nodes() -> None:
    node = {"model": {"bridge": {"_target_": "hdvl.bridges.MLP", "depth": 1, "dpeth": 2}}}
    check_added(node, {"model.bridge.depth": 1}, "train")
    with pytest.raises(ValueError, match=r"model\.bridge\.dpeth must be .*, did you mean depth"):
        check_added(node, {"model.bridge.dpeth": 1}, "train")


@pytest.mark.slow
def test_hydra_is_left_as_it_was_found(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import getbase

    (tmp_path / "mine.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        before = (GlobalHydra.instance(), GlobalHydra.instance().hydra, getbase())
        assert hdvl.compose("model=small").model.llm is not None
        with pytest.raises(Exception, match="no_such_model"):
            hdvl.compose("model=no_such_model")
        assert (GlobalHydra.instance(), GlobalHydra.instance().hydra, getbase()) == before
        assert compose("mine", ["x=3"]).x == 3


def test_a_mapping_that_is_empty_by_default_takes_any_names() -> None:
    config = hdvl.compose("judge.settings={temperature: 0}", config_name="score")
    assert config.judge.settings == {"temperature": 0}
    with pytest.raises(ValueError, match=r"judge does not have all keys of the given mapping"):
        hdvl.compose("judge={temperature: 0}", config_name="score")


def test_options_are_no_overrides_in_python() -> None:
    with pytest.raises(ValueError, match=r"the option '--config-dir'; .*hydra\.searchpath=\[DIR\]"):
        hdvl.compose("--config-dir", "myconf", "bridge=mlp")


def test_missing_values_are_named_in_python() -> None:
    with pytest.raises(ValueError, match=r"^llm\.path must be given, such as llm\.path=Qwen"):
        hdvl.build(hdvl.compose("llm=pretrained").model)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hdvl.watching.answers.Answers", "hdvl.callbacks.answers.Answers"),
        (
            "hdvl.training.checkpointing.Checkpoints",
            "hdvl.callbacks.checkpointing.Checkpoints",
        ),
    ],
)
def test_targets_of_earlier_runs_name_the_new_path(old: str, new: str) -> None:
    with pytest.raises(ValueError, match=rf"^_target_ {old} has moved, use {new}$"):
        hdvl.build({"callbacks": {"one": {"_target_": old}}})
    assert get_object(new) is not None


def test_arguments_that_hdvl_sets_are_refused_and_not_listed() -> None:
    base = {"bridge": {"_target_": "hdvl.bridges.MLP", "_partial_": True, "depth": 2}}
    for key in ("bridge.out_width", "bridge.grid"):
        said = unknown_key(base, key, "plan", typed=True)
        assert said.startswith(
            f"{key} must not be given, hdvl sets in_width, out_width, grid of a bridge"
        )
        with pytest.raises(ValueError, match=f"^{key} must not be given"):
            check_added(base, {key: 3}, "plan")
    said = unknown_key(base, "bridge.qqqq", "plan", typed=True)
    assert "it takes depth, hidden, bias" in said and "in_width" not in said and "grid" not in said


def test_keys_of_stages_are_suggested() -> None:
    base = {"trainer": {"max_steps": 1}, "tuning": {"llm": "full"}, "stages": [{"name": "a"}]}
    said = unknown_key(base, "stages.0.trainer.max_stps", "train", typed=True)
    assert said == (
        "stages.0.trainer.max_stps is no key of hdvl train, did you mean stages.0.trainer.max_steps?"
    )
    said = unknown_key(base, "stages.0.trainer.max_steps", "train", typed=True)
    assert said.endswith("add it with +stages.0.trainer.max_steps=VALUE")


def test_only_a_terminal_is_told_that_torch_is_being_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hdvl", "image=hdvl/assets/tag.png", "prompt=Which?"])
    for modules, terminal in (({}, True), ({}, False), ({"torch": sys}, True)):
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "torch", raising=False)
            for name, module in modules.items():
                patch.setitem(sys.modules, name, module)
            patch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
            command("infer", lambda plain: None)
        told = "hdvl infer: loading torch and the models ...\n"
        assert capsys.readouterr().err == (told if terminal and not modules else "")
