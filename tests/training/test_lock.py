"""One process at a time in a run folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hdvl.training.lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from hdvl.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_is_refused_by_name_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(
                ValueError, match=rf"is in use by process {process.pid} on .*; wait for it"
            ),
            locked(tmp_path),
        ):
            pytest.fail("both hold the lock")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert (tmp_path / LOCK).exists()  # killed, it could not tidy up
    with locked(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_one_process_has_it_once(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "new"),
        pytest.raises(ValueError, match="is in use by"),
        locked(tmp_path / "new"),
    ):
        pytest.fail("it is held twice")


def test_children_do_not_keep_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_other_ranks_do_not_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with locked(tmp_path / "run"):
        assert not (tmp_path / "run").exists()
