"""Handles Ctrl-C and SIGTERM during training: the step is finished and saved, and the run stops."""

import os
import signal
import sys
from types import FrameType
from typing import Any

from hdvl.training.ranks import is_rank_zero

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(Exception):
    """Raised when a signal ended the run. The message says how to resume it.

    ``code`` is the exit code that a shell expects, and ``saved`` is whether the last step was saved.
    """

    def __init__(self, message: str, code: int = 130, *, saved: bool = False) -> None:
        super().__init__(message)
        self.code, self.saved = code, saved


class ValidationStopped(Exception):
    """Raised to leave a validation after a signal, when the last step is saved."""


class StopSignals:
    """Stores the first signal in ``number``; the second one raises KeyboardInterrupt.

    Forked processes inherit the handlers, which do nothing there.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._owner = 0
        self._old: dict[signal.Signals, Any] = {}

    @property
    def code(self) -> int:
        """The exit code of a process that was ended by this signal."""
        return 128 + (self.number or signal.SIGINT)

    def listen(self) -> None:
        """Install the signal handlers. It may be called again if another library replaced them."""
        self._owner = os.getpid()
        for number in SIGNALS:
            old = signal.signal(number, self._handle)
            self._old.setdefault(number, old)

    def release(self) -> None:
        """Restore the previous signal handlers."""
        for number, old in self._old.items():
            signal.signal(number, old)
        self._old = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if is_rank_zero():
            name = _NAMES[signal.Signals(number)]
            # A terminal echoes ^C into the progress bar, whose second line is below the cursor.
            clear = "\033[J" if sys.stdout.isatty() else ""
            text = f"{name}: saving after this step; once more to stop at once"
            print(f"\n{clear}{text}", flush=True)
