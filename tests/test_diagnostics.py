"""The findings of ``hdvl doctor``."""

import importlib.metadata
import shutil
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hdvl import diagnostics, extras
from hdvl.data.synthetic import fonts


def findings(iterator: Any) -> dict[str, diagnostics.Finding]:
    return {finding.name: finding for finding in iterator}


def test_ranges_are_those_of_pyproject(root: Path) -> None:
    ranges = extras.read_ranges()
    assert ranges.source == "pyproject.toml"
    assert ranges.python == ">=3.11,<3.14"
    assert any(line.startswith("torchvision") for line in ranges.core)
    assert {"serving", "quantisation", "tests"} <= set(ranges.extras)


def test_ranges_of_a_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without pyproject.toml, the metadata of the installed package gives the same requirements."""
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "hdvl" / "diagnostics.py"))
    lines = ["torch>=2.8", "simplejpeg>=1.9 ; extra == 'fast'", "tomli ; python_version < '3'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    metadata = Message()
    metadata["Requires-Python"], metadata["Provides-Extra"] = ">=3.11", "fast"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: metadata)
    ranges = extras.read_ranges()
    assert ranges.source == "the installed package's metadata"
    assert ranges.core == ("torch>=2.8",)
    assert ranges.extras == {"fast": ("simplejpeg>=1.9",)}
    assert ranges.python == ">=3.11"


def test_a_package_in_and_out_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.5.0")
    good = diagnostics.check_package("thing>=1,<2")
    assert (good.level, good.value) == ("ok", "1.5.0 (range >=1,<2)")
    bad = diagnostics.check_package("thing>=2")
    assert (bad.level, bad.value) == ("bad", "1.5.0 is outside >=2")
    assert bad.advice == "pip install 'thing>=2'"


def test_a_missing_package() -> None:
    finding = diagnostics.check_package("no-such-package-of-hdvl>=3")
    assert (finding.level, finding.value) == ("bad", "missing, needs >=3")
    assert finding.advice == "pip install 'no-such-package-of-hdvl>=3'"


def test_local_and_development_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2.8.0+cpu", "2.9.0.dev20260101+cu130"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, v=version: v)
        assert diagnostics.check_package("torch>=2.8").level == "ok"


def test_python_outside_the_range() -> None:
    assert diagnostics.check_python(">=3.11").level == "ok"
    finding = diagnostics.check_python("<3")
    assert finding.level == "bad" and "is outside <3" in finding.value
    assert finding.advice == "create a virtual environment with a Python in the range"


def test_core_packages_are_there() -> None:
    found = findings(diagnostics.check_packages(extras.read_ranges()))
    assert {"hdvl", "python", "torch", "torchvision", "hydra-core"} <= set(found)
    assert not [finding for finding in found.values() if finding.level == "bad"]


def test_torchvision_runs_an_operator() -> None:
    assert diagnostics.check_torchvision() == diagnostics.Finding(
        "torch + torchvision", "builds match"
    )


@pytest.mark.parametrize("error", [RuntimeError, OSError, ImportError, AttributeError])
def test_torchvision_of_another_torch(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.ops

    def broken(*args: Any) -> None:
        raise error("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr(torchvision.ops, "nms", broken)
    finding = diagnostics.check_torchvision()
    assert finding.level == "bad"
    assert finding.value == "operator torchvision::nms does not exist"
    assert "install both in one command" in finding.advice


def test_extras_name_what_is_missing() -> None:
    optional = {"fast": ("einops>=0.8",), "all": ("hdvl[fast,odd]",), "odd": ("no-such-package",)}
    ranges = extras.Ranges(source="a test", python=">=3.11", core=(), extras=optional)
    found = findings(diagnostics.check_extras(ranges))
    assert found["fast"] == diagnostics.Finding("fast", "present")
    for extra in ("all", "odd"):
        assert found[extra].level == "note"
        assert found[extra].value == "without no-such-package"
        assert found[extra].advice == f"pip install 'hdvl[{extra}]'"


def test_emulated_bf16_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "cpu_flags", lambda: frozenset({"avx2"}))
    assert findings(diagnostics.check_processor())["bf16 on the CPU"].level == "note"
    monkeypatch.setattr(diagnostics, "cpu_flags", lambda: frozenset({"avx2", "avx512_bf16"}))
    assert "bf16 on the CPU" not in findings(diagnostics.check_processor())


def test_more_threads_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "usable_cpus", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    finding = findings(diagnostics.check_processor())["threads"]
    assert (finding.level, finding.advice) == ("note", "set OMP_NUM_THREADS=2")


def test_accelerator_is_reported() -> None:
    found = findings(diagnostics.check_accelerator())
    assert {"flash-attn", "bitsandbytes"} < set(found)


def test_cuda_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        cuda, "mem_get_info", lambda index: (70 * diagnostics.GIB, 80 * diagnostics.GIB)
    )
    monkeypatch.setattr(cuda, "get_device_name", lambda index: "Card")
    monkeypatch.setattr(cuda, "get_device_capability", lambda index: (9, 0))
    found = findings(diagnostics.check_accelerator())
    assert found["cuda:0"].value == "Card, capability 9.0, 70.0 of 80.0 GiB free"


def test_little_disk_space_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagnostics, "available_memory", lambda: diagnostics.GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=diagnostics.GIB))
    found = findings(diagnostics.check_room(tmp_path))
    assert (found["memory"].value, found["memory"].advice) == (
        "1.0 GiB free",
        "training needs 2 GiB",
    )
    assert found["disk"].value == f"1.0 GiB free in {tmp_path.resolve()}"
    assert found["disk"].level == "note"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder must exist, got '.*nowhere'; use folder=DIR"):
        list(diagnostics.check_room(tmp_path / "nowhere"))


def test_a_missing_font_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fonts.SETS["few"], "zh", (("no_such_fonts", "a.otf"),))
    finding = diagnostics.check_fonts()
    assert finding.level == "note" and "no_such_fonts" in finding.advice
