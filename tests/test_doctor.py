"""``hdvl doctor`` as a command: its report and its exit code."""

import sys

import pytest

from hdvl import diagnostics, doctor


def doctor_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["hdvl-doctor"])
    doctor.main()
    return capsys.readouterr().out


def test_a_sound_installation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = doctor_prints(capsys, monkeypatch)
    for title in ("Packages (ranges of pyproject.toml)", "Builds", "Machine", "Extras"):
        assert f"\n{title}\n" in printed
    assert printed.endswith("all that hdvl needs is there\n")


def test_a_missing_core_package_ends_with_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = diagnostics.Finding(
        "torch", "missing, needs >=2.8", "bad", "pip install 'torch>=2.8'"
    )
    monkeypatch.setattr(diagnostics, "check_packages", lambda ranges: iter([finding]))
    with pytest.raises(SystemExit) as caught:
        doctor_prints(capsys, monkeypatch)
    assert caught.value.code == 1
    printed = capsys.readouterr().out
    assert "BAD   torch" in printed and "-> pip install 'torch>=2.8'" in printed
    assert "1 wrong; the other checks need these packages first" in printed


def test_mismatched_builds_end_with_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = diagnostics.Finding(
        "torch + torchvision", "operator does not exist", "bad", "reinstall"
    )
    monkeypatch.setattr(diagnostics, "check_torchvision", lambda: finding)
    with pytest.raises(SystemExit) as caught:
        doctor_prints(capsys, monkeypatch)
    assert caught.value.code == 1
    assert capsys.readouterr().out.endswith("\n1 wrong\n")
