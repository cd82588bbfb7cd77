"""The files of docs/deployment, as far as they can be checked without Docker and systemd.

The steps of the Dockerfile that install hdvl are done in a folder: the files that it copies are built and
installed, and its entry point and its health check are run.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from hdvl.config import compose, to_plain

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "deployment"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def values(instruction: str) -> list[str]:
    return [arguments for name, arguments in steps() if name == instruction]


def words_of(instruction: str) -> list[str]:
    """The words of ENTRYPOINT, CMD and the like, which are lists in JSON."""
    (value,) = values(instruction)
    words: list[str] = json.loads(value[value.index("[") :])
    return words


def service() -> dict[str, Any]:
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def copied() -> dict[str, str]:
    """What the Dockerfile copies, and where to."""
    return {
        source: target
        for value in values("COPY")
        for *sources, target in [shlex.split(value)]
        for source in sources
    }


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    names = copied()
    assert set(names) == {"pyproject.toml", "README.md", "LICENSE", "hdvl", "conf"}
    assert all((ROOT / name).exists() for name in names)
    text = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    for name in (*names, "tests", ".venv"):
        ignored = False
        for rule in rules:  # the last one that fits decides
            if fnmatch(name, rule.removeprefix("!")):
                ignored = not rule.startswith("!")
        assert ignored == (name not in names), name
    assert values("FROM") == ["${BASE}"]
    assert {value.split("=")[0] for value in values("ARG")} == {"BASE", "TORCH_INDEX"}


def test_the_extras_of_the_image_are_those_of_the_package() -> None:
    (install,) = [value for value in values("RUN") if "/src[" in value]
    extras = Requirement("hdvl" + re.findall(r"/src(\[[^]]+\])", install)[0]).extras
    assert extras <= set(PROJECT["optional-dependencies"]) and "serving" in extras


@pytest.mark.parametrize("way", ["image", "compose", "systemd"])
def test_the_server_is_started_with_keys_that_it_has(way: str) -> None:
    if way == "systemd":
        unit = (FOLDER / "hdvl.service").read_text(encoding="utf-8")
        words = shlex.split(re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0])
        assert f"WorkingDirectory=/var/lib/{re.findall('StateDirectory=(.*)', unit)[0]}" in unit
    else:
        given = words_of("CMD") if way == "image" else service()["services"]["hdvl"]["command"]
        words = words_of("ENTRYPOINT") + given
    assert Path(words[0]).name == "hdvl" and words[1] == "serve"
    # systemd replaces ${...} before.
    cfg: Any = to_plain(
        compose(*(re.sub(r"\$\{\w+\}", "", word) for word in words[2:]), config_name="serve")
    )
    assert cfg["port"] == 8000 and cfg["checkpoint"]
    assert values("EXPOSE") == [str(cfg["port"])]
    hdvl = service()["services"]["hdvl"]
    assert hdvl["ports"] == ["8000:8000"]
    assert int(hdvl["stop_grace_period"].removesuffix("s")) > cfg["settings"]["drain_seconds"]


def test_the_files_that_compose_names() -> None:
    held = service()
    hdvl = held["services"]["hdvl"]
    context = (FOLDER / hdvl["build"]["context"]).resolve()
    assert context == ROOT and (context / hdvl["build"]["dockerfile"]).is_file()
    volumes = {volume.split(":")[1]: volume.split(":")[0] for volume in hdvl["volumes"]}
    checkpoint, keys = (word.split("=")[1] for word in hdvl["command"])
    assert any(checkpoint.startswith(target + "/") for target in volumes)
    assert keys == "/run/secrets/keys" and set(hdvl["secrets"]) == set(held["secrets"]) == {"keys"}
    (home,) = values("WORKDIR")
    assert home in hdvl["tmpfs"]  # the only folders that can be written to


@pytest.mark.slow
def test_the_image_without_docker(tmp_path: Path) -> None:
    """Only what the Dockerfile copies is installed; the requirements are those of this environment."""
    source, site = tmp_path / "src", tmp_path / "site"
    source.mkdir()
    for name in copied():
        (source / name).symlink_to(ROOT / name)
    offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *offline]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    words = [word.replace("8000", str(port)) for word in words_of("ENTRYPOINT") + words_of("CMD")]
    script = [sys.executable, str(site / "bin" / words[0]), *words[1:]]
    empty = tmp_path / "home"
    empty.mkdir(mode=0o500)  # as in a container whose file system is read-only
    checked = [word.replace("8000", str(port)) for word in words_of("HEALTHCHECK")]
    check = [sys.executable, *checked[1:]]
    server = subprocess.Popen(script, cwd=empty, env=environment, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 300
        while subprocess.run(check, capture_output=True).returncode:
            assert server.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(1)
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.communicate()
    assert not list(empty.iterdir())
