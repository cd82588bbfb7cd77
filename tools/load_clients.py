"""Clients that send the requests of ``tools/load_test.py``, as a process of its own with CPU time of its own.

    python tools/load_clients.py URL CLIENTS < requests.jsonl     prints one JSON object

A request that is refused with 429 is sent again after ``Retry-After``, as clients of OpenAI's do.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2


@dataclass
class Load:
    """What came of the requests."""

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def ask(client: httpx2.Client, asked: dict[str, Any], load: Load, lock: threading.Lock) -> None:
    """Send a request until it is answered or fails."""
    start, said, text = time.perf_counter(), None, ""
    while said is None or said.status_code == 429:
        if said is not None:
            with lock:
                load.refused += 1
            time.sleep(float(said.headers["Retry-After"]))
        try:
            said = client.post("/v1/chat/completions", json=asked)
        except httpx2.TransportError as error:
            with lock:
                load.failures.append(repr(error))
            return
    tokens = 0
    if said.status_code != 200:
        text = f"{said.status_code} {said.text[:200]}"
    elif asked.get("stream"):
        events = [line[6:] for line in said.text.splitlines() if line.startswith("data: {")]
        usage = json.loads(events[-1]).get("usage") if events else None
        tokens = usage["completion_tokens"] if usage else 0
        text = (
            ""
            if usage and said.text.rstrip().endswith("[DONE]")
            else f"cut off: {said.text[-200:]}"
        )
    else:
        tokens = said.json()["usage"]["completion_tokens"]
    with lock:
        load.seconds.append(time.perf_counter() - start)
        load.tokens += tokens
        load.failures += [text] if text else []


def main() -> None:
    """Send all requests and print what came of them."""
    url, clients = sys.argv[1], int(sys.argv[2])
    bodies = [json.loads(line) for line in sys.stdin]
    load, lock = Load(), threading.Lock()
    limits = httpx2.Limits(max_connections=clients)
    began = time.perf_counter()
    with httpx2.Client(base_url=url, timeout=1800, limits=limits) as client:
        with ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(ask, client, asked, load, lock) for asked in bodies]:
                done.result()
    print(json.dumps({**asdict(load), "wall": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
