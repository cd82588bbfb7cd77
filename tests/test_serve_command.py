"""``hdvl serve``: messages at the start, and a server in a separate process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from hdvl.config import CONF_DIR
from hdvl.serve import settings_of
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]

CONFIG = {
    **yaml.safe_load((CONF_DIR / "serve.yaml").read_text()),
    "generation": {"max_new_tokens": 7, "temperature": None},
}


def test_settings_are_those_of_the_config(tmp_path: Path) -> None:
    pytest.importorskip("pydantic")
    keys = tmp_path / "keys.txt"
    keys.write_text("# for tests\nfirst\n\nsecond\n")
    found = settings_of({**CONFIG, "api_keys_file": str(keys)})
    assert found.api_keys == ("first", "second") and found.max_waiting == 128
    assert "127.0.0.1" in found.served_hosts and found.defaults["max_new_tokens"] == 7
    assert settings_of({**CONFIG, "host": "0.0.0.0"}).served_hosts == ()
    with pytest.raises(ValueError, match="temperature must be"):
        settings_of({**CONFIG, "generation": {"temperature": -1.0}})
    keys.write_text("# none\n")
    with pytest.raises(ValueError, match="api_keys_file must hold a key"):
        settings_of({**CONFIG, "api_keys_file": str(keys)})


def test_a_port_in_use_is_said_at_once() -> None:
    pytest.importorskip("uvicorn")
    from hdvl.serving.server import bind

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port={port} cannot be listened on.*choose another"):
            bind("127.0.0.1", port)


@pytest.mark.slow
def test_a_server_answers_and_ends_when_it_is_told_to(tiny_folder: Path, tmp_path: Path) -> None:
    words = [f"checkpoint=[{tiny_folder},hdvl/small]", "port=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hdvl.serve", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CONF_DIR.parent)},
    )
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline()]
        while "serving" not in lines[-1]:
            assert lines[-1], "".join(lines)
            lines.append(process.stderr.readline())
        url = lines[-1].split(" at ")[1].strip().removesuffix("/v1")
        wait_until_healthy(url)
        models = read(f"{url}/v1/models")
        assert [one["id"] for one in models["data"]] == [str(tiny_folder), "hdvl/small"]
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": str(tiny_folder), "max_tokens": 3, "messages": messages}
        asked = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        said = read(asked)
        assert said["usage"]["completion_tokens"] == 3
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) in (0, -signal.SIGTERM)
        assert "stopping when the answers" in rest and "Traceback" not in rest
        log = [json.loads(line) for line in rest.splitlines() if line.startswith("{")]
        assert any(line["path"] == "/v1/chat/completions" for line in log)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def read(asked: str | urllib.request.Request) -> Any:
    with urllib.request.urlopen(asked) as response:
        return json.load(response)


def wait_until_healthy(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            read(f"{url}/health")
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)
