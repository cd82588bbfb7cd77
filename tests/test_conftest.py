"""The restrictions of ``conftest.py`` are in effect."""

import os
import socket

import pytest
import torch


def test_connections_to_other_machines_are_refused() -> None:
    with (
        socket.socket() as one,
        pytest.raises(PermissionError, match=r"connection to '192\.0\.2\.1'"),
    ):
        one.connect(("192.0.2.1", 80))
    with socket.socket() as one, pytest.raises(PermissionError, match="tests have no network"):
        one.connect_ex(("192.0.2.1", 80))
    with pytest.raises(PermissionError, match=r"look-up of 'example\.org' refused"):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(PermissionError, match=r"look-up of 'example\.org' refused"):
        socket.create_connection(("example.org", 443), timeout=1)


def test_connections_to_this_machine_work() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            client.sendall(b"x")
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"


def test_hubs_are_offline_and_one_thread_is_used() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("_again", [0, 1])
def test_random_numbers_start_over(_again: int, seed: int) -> None:
    assert torch.rand(1).item() == pytest.approx(0.4962566, abs=1e-6)


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("number", range(4))
def test_the_first_cases_are_quick(request: pytest.FixtureRequest, number: int) -> None:
    assert bool(request.node.get_closest_marker("slow")) == (number >= 2)


@pytest.mark.slow_beyond(2, every=3)
@pytest.mark.parametrize("number", range(8))
def test_quick_cases_lie_apart(request: pytest.FixtureRequest, number: int) -> None:
    assert bool(request.node.get_closest_marker("slow")) == (number not in {0, 3})
