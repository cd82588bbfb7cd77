"""The text that a signal prints during training."""

import os
import signal
import sys

import pytest

from hdvl.training.stopping import StopSignals


@pytest.mark.parametrize("terminal", [True, False])
def test_the_message_clears_the_progress_bar_of_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    signals = StopSignals()
    signals.listen()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signals.release()
    assert signals.number == signal.SIGTERM
    clear = "\033[J" if terminal else ""
    expected = f"\n{clear}SIGTERM: saving after this step; once more to stop at once\n"
    assert capsys.readouterr().out == expected
