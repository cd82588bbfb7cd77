"""The wheel, built from the sdist, holds all of hdvl and conf/, and runs from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hdvl import __version__, cli

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def sources() -> set[str]:
    """Files that a wheel must hold, by the name they have in it."""
    kept = [path for path in (ROOT / "hdvl").rglob("*") if path.is_file()]
    packaged = {
        path.relative_to(ROOT).as_posix() for path in kept if "__pycache__" not in path.parts
    }
    conf = {f"hdvl/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("conf/**/*.yaml")}
    return packaged | conf


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / f"hdvl-{__version__}.tar.gz").is_file()
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and nothing else; its requirements come from this environment."""
    target = tmp_path_factory.mktemp("site")
    words = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", *words, "--target", str(target), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(command: list[str], *, installed: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_everything(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"hdvl/conf/train.yaml", "hdvl/py.typed", "hdvl/cli.py"} <= names
    assert sources() <= names, f"not in the wheel: {sorted(sources() - names)}"
    surplus = {name for name in names - sources() if ".dist-info/" not in name}
    assert not surplus, f"in the wheel, but not in the checkout: {sorted(surplus)}"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_installed_copy_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import hdvl, hdvl.config; print(hdvl.__file__, hdvl.config.CONF_DIR)"
    printed = run([sys.executable, "-c", code], installed=installed, cwd=tmp_path)
    assert printed.split() == [str(installed / "hdvl/__init__.py"), str(installed / "hdvl/conf")]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_starts_from_another_folder(
    command: str, installed: Path, tmp_path: Path
) -> None:
    script = str(installed / "bin" / "hdvl")
    assert run([script, *command.split(), "--help"], installed=installed, cwd=tmp_path).strip()
    name = command.replace(" ", "_")  # hdvl data lint is hdvl.data_lint
    if not (installed / "hdvl" / "conf" / f"{name}.yaml").is_file():
        return  # such as hdvl list, which has no config
    module = [sys.executable, "-m", f"hdvl.{name}", "--cfg", "job"]
    assert run(module, installed=installed, cwd=tmp_path).strip()
    assert not list(tmp_path.iterdir())


def test_doctor_reads_the_ranges_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    printed = run([sys.executable, "-m", "hdvl.doctor"], installed=installed, cwd=tmp_path)
    assert "ranges of the installed package's metadata" in printed


def test_a_custom_part(installed: Path, tmp_path: Path) -> None:
    """A class in any importable file and a YAML in any folder: ``--config-dir`` finds it."""
    (tmp_path / "conf" / "tiler").mkdir(parents=True)
    yaml = "_target_: my_parts.MyTiler\nedge: 7\n"
    (tmp_path / "conf" / "tiler" / "mine.yaml").write_text(yaml, encoding="utf-8")
    words = ["--config-dir", "conf", "tiler=mine", "tiler.edge=8", "--cfg", "job"]
    command = [sys.executable, "-m", "hdvl.train", *words]
    printed = run(command, installed=installed, cwd=tmp_path)
    assert "_target_: my_parts.MyTiler\n  edge: 8" in printed
