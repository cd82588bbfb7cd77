"""README.md is correct: its code runs, its commands compose, and its tree agrees with the files.

A Python block under ``<!-- runs -->`` is executed; under ``<!-- runs: slow -->`` in the slow part.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hdvl import cli
from hdvl.config import compose

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>runs[^>]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.S
)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(README)]


def commands(word: str) -> list[str]:
    """Command lines of the README's shell blocks that start with ``word``."""
    lines = [line for b in BLOCKS if b["language"] == "bash" for line in b["code"].splitlines()]
    return [line.strip() for line in lines if line.strip().startswith(f"{word} ")]


def python_blocks() -> list[object]:
    blocks = [block for block in BLOCKS if block["language"] == "python"]
    marks = {"runs": (), "runs: slow": pytest.mark.slow}
    return [
        pytest.param(block["code"], marks=marks[block["mark"]], id=f"block{number}")
        for number, block in enumerate(blocks)
        if block["mark"]
    ]


@pytest.mark.parametrize("code", python_blocks())
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hdvl").symlink_to(ROOT / "hdvl")  # paths as from the checkout, writes elsewhere
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_there_is_python_that_runs() -> None:
    assert python_blocks()


@pytest.mark.slow
def test_the_bridge_of_the_readme_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two files of "How to add a part", written as the README prints them, and planned."""
    code = next(b["code"] for b in BLOCKS if "class StripPool" in b["code"])
    choice = next(b["code"] for b in BLOCKS if b["language"] == "yaml" and "StripPool" in b["code"])
    (tmp_path / "my_bridges.py").write_text(code)
    (tmp_path / "myconf/bridge").mkdir(parents=True)
    (tmp_path / "myconf/bridge/strip_pool.yaml").write_text(choice)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    words = ["--config-dir", "./myconf", "bridge=strip_pool", "bridge.factor=7"]
    done = subprocess.run(
        [sys.executable, "-m", "hdvl", "plan", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"bridge +1 +3,072 ", done.stdout), done.stdout


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize("line", commands("hdvl"))
def test_hdvl_commands_compose(line: str) -> None:
    """The command exists, its groups and keys exist, and the shipped files it names too."""
    command, words = cli.split_command(shlex.split(line, comments=True)[1:])
    assert command in cli.COMMANDS, line
    words = cli.as_overrides(command, words)
    overrides = [word for word in words if not word.startswith("-")]
    compose(*overrides, config_name=cli.module_of(command))
    for word in overrides:
        value = word.partition("=")[2]
        if value.startswith("hdvl/"):
            shipped = ROOT / "hdvl" / "assets" / value.removeprefix("hdvl/")
            assert (ROOT / value).exists() or shipped.is_dir(), f"{line}: {value} does not exist"


@pytest.mark.parametrize("line", commands("make"))
def test_make_targets_exist(line: str) -> None:
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


def test_every_command_is_described() -> None:
    missing = [command for command in cli.COMMANDS if not re.search(rf"\bhdvl {command}\b", README)]
    assert not missing, f"README.md does not tell of {missing}"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http|#)([^)]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link.partition("#")[0]).exists()


# --- the tree -----------------------------------------------------------------------------------


def tree() -> dict[str, str]:
    """Path to caption, from the README's ``text`` block that starts with the checkout's name."""
    block = next(b["code"] for b in BLOCKS if b["language"] == "text" and "hdvl/\n" in b["code"])
    captions: dict[str, str] = {}
    parents: list[str] = []
    for line in block.splitlines():
        names, _, caption = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        for name in names.split():
            parents[depth:] = [name]
            captions["".join(parents)] = caption.strip()
    return captions


def tracked() -> list[str]:
    """The files of the checkout that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: which files belong to it is not known")
    return [name for name in listed.stdout.split("\0") if name]


def test_the_tree_names_what_exists() -> None:
    lost = [path for path in tree() if not (ROOT / path).exists()]
    assert not lost, f"README.md captions {lost}, which do not exist"


@pytest.mark.parametrize("folder", ["", "hdvl/", "conf/"])
def test_everything_has_a_place_in_the_tree(folder: str) -> None:
    inside = [name.removeprefix(folder) for name in tracked() if name.startswith(folder)]
    first = {name.partition("/")[0] + ("/" if "/" in name else "") for name in inside}
    missing = sorted({f"{folder}{name}" for name in first if name[0] != "."} - set(tree()))
    assert not missing, f"README.md's tree lacks {missing}"


def test_every_line_of_the_tree_has_a_caption() -> None:
    bare = [path for path, caption in tree().items() if not caption]
    assert set(bare) <= {"hdvl/"}, bare
