"""Fixtures of all tests: fixed seeds, one thread, no network, no hub."""

import os

# Before transformers, timm or open_clip are imported: they read these once. Children inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MPLBACKEND="Agg",
)

import gc
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import config

ROOT = Path(__file__).resolve().parent.parent
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1", "", None}
_connect, _connect_ex, _getaddrinfo = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.getaddrinfo,
)


def _refuse_remote(family: int, address: Any) -> None:
    if family == getattr(socket, "AF_UNIX", None):
        return
    host = address[0] if isinstance(address, tuple) else address
    if host not in _LOCAL_HOSTS:
        raise PermissionError(f"tests have no network: connection to {host!r} refused")


def _local_connect(self: socket.socket, address: Any) -> None:
    _refuse_remote(self.family, address)
    return _connect(self, address)


def _local_connect_ex(self: socket.socket, address: Any) -> int:
    _refuse_remote(self.family, address)
    return _connect_ex(self, address)


def _local_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in _LOCAL_HOSTS | {socket.gethostname(), "0.0.0.0", "::"}:
        raise PermissionError(f"tests have no network: look-up of {name!r} refused")
    return _getaddrinfo(host, *args, **kwargs)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Sockets reach this machine only."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _local_connect)
    patch.setattr(socket.socket, "connect_ex", _local_connect_ex)
    patch.setattr(socket, "getaddrinfo", _local_getaddrinfo)
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread: the tests' sums come out in the same order everywhere."""
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of a test slow that ``slow_beyond(n, every=k)`` does not choose.

    Of the cases in their order, each k-th (by default each) is quick, until n of them are.
    """
    cases: Counter[tuple[Path, str]] = Counter()
    for item in items:
        if (marker := item.get_closest_marker("slow_beyond")) is None:
            continue
        (count,), every = marker.args, marker.kwargs.get("every", 1)
        test = (item.path, item.nodeid.partition("[")[0])
        number, other = divmod(cases[test], every)
        cases[test] += 1
        if other or number >= count:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: walking over it costs more than many tests."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the interpreter collect what was imported as it ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def seed() -> int:
    """The same random numbers for each test, whichever tests run before it."""
    random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def unchecked() -> Callable[[], AbstractContextManager[None]]:
    """Calls inside are made without type checks, as a user's are: an option may be misspelt."""

    @contextmanager
    def context() -> Iterator[None]:
        before = config.jaxtyping_disable
        config.update("jaxtyping_disable", True)
        try:
            yield
        finally:
            config.update("jaxtyping_disable", before)

    return context
