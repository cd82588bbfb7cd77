"""Progress of a run over many questions."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]


class AskingProgress:
    """A progress bar on a terminal, otherwise a line at intervals; both on the standard error.

    Args:
        total: the number of rows.
        done: the number of rows that an earlier run has done.
        hits: gives the share of images whose features were known already, or ``None``.
        interval: seconds between two lines without a terminal.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        hits: Callable[[], float | None] = lambda: None,
        interval: float = 30.0,
    ) -> None:
        self.total, self.done, self.hits, self.interval = total, done, hits, interval
        self.bad = self.images = self.tokens = self.asked = 0
        self._started = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "AskingProgress":
        self._started = self._last = time.monotonic()
        self._bar = tqdm(
            total=self.total,
            initial=self.done,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            unit="row",
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def add(self, *, images: int = 0, new_tokens: int = 0, error: str = "") -> None:
        """Count a row and show it; a bad row is named by ``error``."""
        self.done += 1
        self.asked += 1
        self.images += images
        self.tokens += new_tokens
        if error:
            self.bad += 1
            self._bar.write(f"bad row  {error}", file=sys.stderr)
        self._bar.update(1)
        now = time.monotonic()
        if self._bar.disable and now - self._last >= self.interval:
            self._last = now
            print(f"{self.done}/{self.total} rows  {self.text()}", file=sys.stderr, flush=True)
        elif not self._bar.disable:
            self._bar.set_postfix_str(self.text(left=False), refresh=False)

    def text(self, *, left: bool = True) -> str:
        """Speeds, the share of known images, bad rows and, if asked for, the time that is left."""
        seconds = max(self.seconds, 1e-9)
        parts = [f"{self.images / seconds:.1f} images/s", f"{self.tokens / seconds:.0f} tokens/s"]
        known = self.hits()
        if known is not None:
            parts.append(f"{100 * known:.0f}% of images known")
        if self.bad:
            parts.append(f"{self.bad} bad")
        if left and self.asked:
            rest = seconds / self.asked * (self.total - self.done)
            parts.append(f"{tqdm.format_interval(rest)} left")
        return "  ".join(parts)

    def numbers(self) -> dict[str, Any]:
        """Return the statistics since the start, as plain data."""
        return {
            "asked": self.asked,
            "bad": self.bad,
            "images": self.images,
            "new_tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }
