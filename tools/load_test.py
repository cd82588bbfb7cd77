"""Load on a server: failures, the queue, throughput against the engine alone, and memory.

    python tools/load_test.py                         the shipped model, 8 clients, 500 requests
    python tools/load_test.py --requests 2000 --no-offline    memory over many requests
    python tools/load_test.py --clients 64 --waiting 16      more clients than the queue holds

The server runs in a process of its own, as ``hdvl serve`` starts it. The engine alone answers the same
questions before it, in this process, so both have the same number of threads. A request that is
refused with 429 is sent again after ``Retry-After``, as clients of OpenAI's do.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from hdvl.html import embedded

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Load:
    """What came of the requests."""

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def pictures(count: int, size: int) -> list[str]:
    """Pictures that differ, as data URLs."""
    return [embedded(Image.effect_noise((size, size), 20 + n).convert("RGB")) for n in range(count)]


def body(model: str, number: int, urls: Sequence[str], tokens: int) -> dict[str, Any]:
    """Request ``number``. A few pictures are asked about again and again, with different questions."""
    image = {"type": "image_url", "image_url": {"url": urls[number % len(urls)]}}
    content = [image, {"type": "text", "text": f"What is written in line {number}?"}]
    messages = [{"role": "user", "content": content}]
    form = {"guided_regex": f"[a-z ]{{{tokens}}}"}  # answers of one length, whatever the model says
    return {"model": model, "messages": messages, "max_tokens": tokens, **form}


def ask(client: httpx2.Client, asked: dict[str, Any], load: Load) -> None:
    """Send a request until it is answered or fails."""
    start = time.perf_counter()
    while True:
        try:
            said = client.post("/v1/chat/completions", json=asked)
        except httpx2.TransportError as error:
            load.failures.append(repr(error))
            return
        if said.status_code != 429:
            break
        with load.lock:
            load.refused += 1
        time.sleep(float(said.headers["Retry-After"]))
    with load.lock:
        load.seconds.append(time.perf_counter() - start)
        if said.status_code == 200:
            load.tokens += said.json()["usage"]["completion_tokens"]
        else:
            load.failures.append(f"{said.status_code} {said.text[:200]}")


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def start(options: argparse.Namespace) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    words = [f"checkpoint={options.checkpoint}", "port=0", f"engine.max_slots={options.slots}"]
    words += [f"settings.max_waiting={options.waiting}", *options.overrides]
    process = subprocess.Popen(
        [sys.executable, "-m", "hdvl.serve", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        if line.startswith("serving"):
            url = line.split(" at ")[1].strip().removesuffix("/v1")
            break
    threading.Thread(target=process.stderr.read, daemon=True).start()  # the access log
    while url:
        try:
            httpx2.get(f"{url}/health")
            return process, url
        except httpx2.TransportError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def served(options: argparse.Namespace, bodies: Sequence[dict[str, Any]]) -> tuple[Load, float]:
    """What came of the requests, and the seconds of all of them together."""
    process, url = start(options)
    load = Load()
    try:
        with httpx2.Client(
            base_url=url, timeout=900, limits=httpx2.Limits(max_connections=options.clients)
        ) as client:
            for asked in bodies[: options.slots]:
                ask(client, asked, Load())  # slots and caches are made at the first requests
            began = time.perf_counter()
            with ThreadPoolExecutor(options.clients) as pool:
                done = [pool.submit(ask, client, asked, load) for asked in bodies]
                for number, one in enumerate(done):
                    one.result()
                    if number % max(1, len(done) // 20) == 0:
                        load.memory.append(resident(process.pid))
            return load, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(60)


def offline(options: argparse.Namespace, bodies: Sequence[dict[str, Any]]) -> float:
    """New ids a second of the engine alone on the same questions."""
    from hdvl.decoding import Guided
    from hdvl.inference.load import load

    pipe = load(options.checkpoint, engine={"max_slots": options.slots})

    def answer(asked: Sequence[dict[str, Any]]) -> int:
        given = [
            pipe.submit(
                one["messages"],
                max_new_tokens=one["max_tokens"],
                guided=Guided(regex=one["guided_regex"]),
            )
            for one in asked
        ]
        return sum(one.wait().usage.new_tokens for one in given)

    answer(bodies[: options.slots])
    began = time.perf_counter()
    step = 2 * options.slots
    tokens = sum(answer(bodies[at : at + step]) for at in range(0, len(bodies), step))
    return tokens / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="hdvl/small")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--waiting", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--no-offline", action="store_true", help="leave the engine alone out")
    parser.add_argument("overrides", nargs="*", help="further keys of hdvl serve")
    options = parser.parse_args()
    urls = pictures(options.pictures, options.size)
    bodies = [
        body(options.checkpoint, number, urls, options.tokens) for number in range(options.requests)
    ]
    alone = None if options.no_offline else offline(options, bodies)
    load, seconds = served(options, bodies)
    found = sorted(load.seconds)
    rate = load.tokens / seconds
    print(
        json.dumps(
            {
                "requests": options.requests,
                "clients": options.clients,
                "failures": len(load.failures),
                "refused_and_sent_again": load.refused,
                "median_seconds": round(statistics.median(found), 3),
                "p95_seconds": round(found[int(0.95 * (len(found) - 1))], 3),
                "requests_a_second": round(len(found) / seconds, 2),
                "tokens_a_second": round(rate, 1),
                "engine_alone_tokens_a_second": None if alone is None else round(alone, 1),
                "of_the_engine_alone": None if alone is None else round(rate / alone, 3),
                "memory_mib": [round(value / 2**20) for value in load.memory],
            },
            indent=1,
        )
    )
    for text in load.failures[:5]:
        print(text, file=sys.stderr)
    sys.exit(bool(load.failures))


if __name__ == "__main__":
    main()
