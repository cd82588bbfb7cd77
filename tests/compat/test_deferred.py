"""Imports within ``deferred`` give stand-ins, which import the real module when they are used."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hdvl.compat.deferred import StandIn, after_import, deferred

PACKAGE = """
import sys
IMPORTED = True
class Thing:
    kind = "real"
    def __init__(self, value=0):
        self.value = value
def double(number):
    return 2 * number
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package with a module ``inner``, neither of which has been imported."""
    name = "package_to_defer"
    (tmp_path / name).mkdir()
    for file in ("__init__.py", "inner.py"):
        (tmp_path / name / file).write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [key for key in sys.modules if key.partition(".")[0] == name]:
        del sys.modules[module]


def names(module: str, *wanted: str) -> list[Any]:
    """What ``from module import wanted`` gives."""
    found = import_module(module)
    return [getattr(found, name) for name in wanted]


def test_stand_ins_import_when_they_are_used(package: str) -> None:
    with deferred([package]):
        thing, double = names(f"{package}.inner", "Thing", "double")
    assert package not in sys.modules and f"{package}.inner" not in sys.modules
    assert isinstance(thing, StandIn)
    assert not isinstance(3, thing) and not issubclass(int, thing)
    assert package not in sys.modules  # nothing can be an instance yet
    assert double(4) == 8
    real = sys.modules[f"{package}.inner"].Thing
    assert isinstance(real(), thing) and issubclass(real, thing) and not isinstance(3, thing)
    assert thing.kind == "real" and thing(5).value == 5
    with pytest.raises(AttributeError, match="missing"):
        _ = thing.missing


def test_a_package_that_is_imported_stays(package: str) -> None:
    real = import_module(package).Thing
    with deferred([package]):
        assert names(package, "Thing") == [real]


def test_a_use_within_the_context_ends_it(package: str) -> None:
    with deferred([package]):
        (double,) = names(package, "double")
        assert double(1) == 2
        assert import_module(package).IMPORTED
        (thing,) = names(f"{package}.inner", "Thing")
        assert not isinstance(thing, StandIn)
    assert import_module(package).IMPORTED


def test_parents_do_not_keep_a_stand_in(package: str) -> None:
    parent = import_module(package)
    with deferred([f"{package}.inner"]):
        assert not hasattr(parent, "inner")
        names(f"{package}.inner", "Thing")
        assert hasattr(parent, "inner")
    assert not hasattr(parent, "inner")


def test_a_function_is_called_after_an_import(package: str) -> None:
    seen: list[bool] = []
    finders = list(sys.meta_path)
    after_import(package, lambda: seen.append(sys.modules[package].IMPORTED))
    assert seen == []
    assert import_module(package).double(2) == 4
    assert seen == [True] and sys.meta_path == finders
    after_import(package, lambda: seen.append(False))
    assert seen == [True, False]
