"""The dispatcher: help, errors, and the start-up time of help and --cfg job."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hdvl import __version__, cli

ROOT = Path(__file__).resolve().parent.parent
MODULES = {cli.module_of(command) for command in cli.COMMANDS}
# Those that compose a config; list, show and completion read the files of conf/ as text.
COMPOSING = [
    command
    for command in cli.COMMANDS
    if (ROOT / "conf" / f"{cli.module_of(command)}.yaml").is_file()
]
HEAVY = "torch", "transformers", "timm", "open_clip", "lightning", "peft", "torchvision", "numpy"
# What a process loaded, said when it ends: on stderr, after everything else.
WITNESS = """
import atexit, runpy, sys
heavy = {heavy!r}
atexit.register(lambda: print("LOADED", *[n for n in heavy if n in sys.modules], file=sys.stderr))
sys.argv = ["hdvl", *{words!r}]
runpy.run_module("hdvl", run_name="__main__", alter_sys=True)
"""


def run(*words: str, cwd: Path) -> tuple[int, str, list[str]]:
    """Exit code, standard output and heavy modules loaded by ``hdvl words...``, run in ``cwd``."""
    done = subprocess.run(
        [sys.executable, "-c", WITNESS.format(heavy=HEAVY, words=list(words))],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    loaded = re.search(r"^LOADED(.*)$", done.stderr, re.MULTILINE)
    assert loaded, done.stderr
    return done.returncode, done.stdout + done.stderr[: loaded.start()], loaded[1].split()


def test_every_command_is_written() -> None:
    for module in MODULES:
        assert (ROOT / "hdvl" / f"{module}.py").is_file(), f"hdvl/{module}.py is missing"


def test_every_command_is_listed() -> None:
    modules = {
        path.stem
        for path in (ROOT / "hdvl").glob("*.py")
        if "import command\n" in path.read_text(encoding="utf-8")
    }
    assert modules <= MODULES, f"cli.COMMANDS lacks {sorted(modules - MODULES)}"


def test_primary_files_are_commands() -> None:
    primary = {path.stem for path in (ROOT / "conf").glob("*.yaml")}
    assert primary <= MODULES, f"cli.COMMANDS lacks {sorted(primary - MODULES)}"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hdvl", *words])
    cli.main()
    printed = capsys.readouterr().out
    for command, text in cli.COMMANDS.items():
        assert re.search(rf"^  {command} +{re.escape(text)}$", printed, re.MULTILINE)
    assert max(map(len, printed.splitlines())) <= 80


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["hdvl", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"hdvl {__version__}\n"


def test_an_unknown_command_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hdvl", "trian", "seed=1"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said == "hdvl: 'trian' is no command, did you mean hdvl train?\n"
    assert cli.unknown(["data", "lnt"]) == "'data lnt' is no command, did you mean hdvl data lint?"
    assert cli.unknown(["data"]).endswith("did you mean hdvl data lint or hdvl data bench?")
    assert cli.unknown(["xyzzy"]).startswith("'xyzzy' is no command; the commands are infer, chat")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["list", "show task=suite"])
def test_a_reader_that_has_seen_enough_is_no_error(words: str) -> None:
    code = f"import sys; sys.argv = ['hdvl', *{words.split()!r}]; from hdvl.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b"" and process.wait() == 141


def test_help_is_instant(tmp_path: Path) -> None:
    """At most 0.15 CPU seconds, without torch; the minimum of five runs, since the machine may be busy."""
    spent = []
    for _ in range(5):
        before = os.times()
        code, printed, loaded = run("--help", cwd=tmp_path)
        after = os.times()
        children = after.children_user - before.children_user
        spent.append(children + after.children_system - before.children_system)
        assert code == 0 and printed.startswith("usage: hdvl COMMAND") and not loaded
    assert min(spent) <= 0.15, spent


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPOSING)
@pytest.mark.parametrize("option", ["--help", "--cfg job"])
def test_commands_explain_themselves_without_torch(
    command: str, option: str, tmp_path: Path
) -> None:
    code, printed, loaded = run(*command.split(), *option.split(), cwd=tmp_path)
    assert code == 0, printed
    assert printed.strip()
    assert not loaded, f"hdvl {command} {option} loads {loaded}"
    assert not list(tmp_path.iterdir()), "help wrote files"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPOSING)
def test_commands_refuse_unknown_keys(command: str, tmp_path: Path) -> None:
    code, printed, _ = run(*command.split(), "no_such_key=1", cwd=tmp_path)
    assert code == 1
    assert "no_such_key" in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m hdvl.cli infer --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "141")
