"""The scripts of ``hdvl completion`` in the shells that they are for."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow
TYPED = [
    ("hdvl tra", ["train "]),
    ("hdvl train encoder=tin", ["encoder=tiny "]),
    ("hdvl train enc", ["encoder="]),
    ("hdvl infer image=fo", ["image=folder/"]),
]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(shell), reason=f"{shell} is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables with which a shell finds ``hdvl``; ``tmp_path`` holds a folder to complete."""
    (tmp_path / "hdvl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hdvl.cli "$@"\n')
    (tmp_path / "hdvl").chmod(0o755)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a b.png").touch()
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": path,
        "TERM": "dumb",
        "HOME": str(tmp_path),
    }


def run_shell(
    *command: str, environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@needs("bash")
@pytest.mark.parametrize(("typed", "expected"), TYPED)
def test_in_bash(
    typed: str, expected: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    script = (
        'eval "$(hdvl completion bash)"\n'
        f"COMP_LINE='{typed}'; COMP_POINT=${{#COMP_LINE}}; _hdvl\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = run_shell("bash", "-c", script, environment=environment, folder=tmp_path)
    # Readline replaces only what stands behind the last =, which ends a word in bash.
    shown = [word[word.rstrip("= /").find("=") + 1 :] for word in expected]
    assert done.stdout.splitlines() == shown, done.stderr


@needs("fish")
@pytest.mark.parametrize(
    ("typed", "expected"), [*TYPED, ("hdvl infer image=folder/", ["image=folder/a b.png"])]
)
def test_in_fish(
    typed: str, expected: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    script = f"hdvl completion fish | source; complete -C '{typed}'"
    done = run_shell("fish", "--no-config", "-c", script, environment=environment, folder=tmp_path)
    # fish itself puts a space behind a word that ends with none of =, / and the like.
    assert done.stdout.splitlines() == [word.strip() for word in expected], done.stderr


@needs("zsh")
def test_in_zsh(environment: dict[str, str], tmp_path: Path) -> None:
    """In an interactive shell, since zsh completes nowhere else. Ctrl-X writes the line to a file."""
    setup = (
        "autoload -U compinit && compinit -u -D\n"
        'eval "$(hdvl completion zsh)"\n'
        'note() { print -r -- "$BUFFER|" >> lines; BUFFER= }\n'
        "zle -N note; bindkey '^X' note\n"
        "print started > lines\n"
    )
    (tmp_path / "setup").write_text(setup)
    typed = [*TYPED, ("hdvl infer image=folder/", ["image=folder/a\\ b.png "])]
    whole = [line[: line.rindex(" ") + 1] + expected[0] for line, expected in typed]
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"],
        env=environment,
        cwd=tmp_path,
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    keys = ["source ./setup\r", *(f"{line}\t\x18" for line, _ in typed), "exit\r"]
    lines, end = ["started", *(f"{line}|" for line in whole)], time.monotonic() + 60
    for number, key in enumerate(keys):
        os.write(terminal, key.encode())
        while number < len(lines) and len(written(tmp_path)) <= number:
            assert time.monotonic() < end, f"no answer to {key!r}: {written(tmp_path)}"
            if select.select([terminal], [], [], 0.05)[0]:
                os.read(terminal, 4096)
    assert process.wait(60) == 0
    os.close(terminal)
    os.close(its_end)
    assert written(tmp_path) == lines


def written(folder: Path) -> list[str]:
    file = folder / "lines"
    return file.read_text().splitlines() if file.exists() else []
