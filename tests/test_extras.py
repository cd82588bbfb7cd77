"""Commands whose optional packages are missing name the extra that installs them."""

import builtins
import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hdvl import diagnostics, extras
from hdvl.command import exit_with_message
from hdvl.config import build
from hdvl.doctor import lacking

READER = "hdvl.evaluation.metrics.anls"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes imports of a package fail."""

    def remove(package: str) -> None:
        real = builtins.__import__

        def imported(name: str, *given: Any, **named: Any) -> Any:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *given, **named)

        parent, _, name = READER.rpartition(".")
        monkeypatch.delitem(sys.modules, READER, raising=False)
        # An earlier import leaves the module as an attribute too, which would be found without an import.
        monkeypatch.delattr(importlib.import_module(parent), name, raising=False)
        monkeypatch.setattr(builtins, "__import__", imported)

    return remove


@pytest.mark.parametrize("command", ["evaluate", "score", "evaluate_diff"])
def test_a_missing_package_is_named_with_its_extra(
    command: str, without: Callable[[str], None]
) -> None:
    without("rapidfuzz")
    with (
        pytest.raises(SystemExit, match=r"package rapidfuzz .* pip install 'hdvl\[evaluation\]'"),
        exit_with_message(command),
    ):
        build({"_target_": f"{READER}.anls"})


def test_the_command_decides_between_extras() -> None:
    for command, extra in (("score", "evaluation"), ("train", "data")):
        said = rf"package datasets .*'hdvl\[{extra}\]'"
        with pytest.raises(SystemExit, match=said), exit_with_message(command):
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet")


def test_a_target_that_does_not_exist_is_still_named() -> None:
    with pytest.raises(ValueError, match=r"_target_ nowhere\.Part does not exist"):
        build({"_target_": "nowhere.Part"})


def test_doctor_names_the_commands_that_lack_an_extra() -> None:
    optional = {"evaluation": ("absent-package",), "plots": ("absent-package",)}
    ranges = extras.Ranges("x", ">=3", (), optional)
    found = list(diagnostics.check_extras(ranges))
    assert "hdvl score, hdvl evaluate diff cannot do without" in found[0].value
    said = "hdvl evaluate, hdvl score, hdvl evaluate diff: pip install 'hdvl[evaluation]'"
    assert lacking(found) == f", but not for {said}"
    assert lacking(found[1:]) == ""
