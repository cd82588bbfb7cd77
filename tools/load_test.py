"""Load test of a server: failures, the queue, throughput compared with the engine alone, and memory.

    python tools/load_test.py                         the shipped model, 8 clients, 500 requests
    python tools/load_test.py --requests 2000 --no-offline    memory over many requests
    python tools/load_test.py --clients 64 --waiting 16      more clients than the queue holds

The engine alone and the server answer the same questions in turn, in this process and with the same model;
the clients are a process of their own. The ratio of each pair is taken of the CPU seconds of this process,
which other processes of a machine change less than the time that passes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hdvl.decoding import Guided
from hdvl.html import embedded
from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.serving import ServedModel, Settings, create_app
from hdvl.serving.conversations import read_messages
from hdvl.serving.server import DrainingServer, bind

CLIENTS = Path(__file__).resolve().parent / "load_clients.py"


@dataclass
class Side:
    """One round of one side."""

    tokens: int
    wall: float
    cpu: float
    threads: dict[str, float]


def images(count: int, size: int) -> list[str]:
    """Images that differ, as data URLs."""
    return [embedded(Image.effect_noise((size, size), 20 + n).convert("RGB")) for n in range(count)]


def body(
    model: str, number: int, urls: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Request ``number``. A few images are asked about again and again, with different questions."""
    image = {"type": "image_url", "image_url": {"url": urls[number % len(urls)]}}
    content = [image, {"type": "text", "text": f"What is written in line {number}?"}]
    asked = {"model": model, "messages": [{"role": "user", "content": content}]}
    # Answers of one length, whatever the model says.
    asked |= {"max_tokens": options.tokens, "guided_regex": f"[a-z ]{{{options.tokens}}}"}
    if options.stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return asked


def thread_seconds() -> dict[str, float]:
    """CPU seconds of the threads of this process, by their names; those of a pool count together."""
    found, names = dict[str, float](), {one.native_id: one.name for one in threading.enumerate()}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        name = names.get(int(task.name), "other").split("-")[0].split("_")[0]
        ticks = int(fields[11]) + int(fields[12])
        found[name] = found.get(name, 0) + ticks / os.sysconf("SC_CLK_TCK")
    return found


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(pipe: Pipeline, options: argparse.Namespace) -> Iterator[str]:
    """The address of a server in this process."""
    settings = Settings(max_waiting=options.waiting)
    app = create_app([ServedModel(options.checkpoint, pipe)], settings)
    listening = bind("127.0.0.1", 0)
    server = DrainingServer(app, drain_seconds=60)
    # uvicorn sets handlers of signals in the main thread alone.
    thread = threading.Thread(target=server.run, args=([listening],), name="server")
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def asked_by_clients(
    url: str, bodies: Sequence[dict[str, Any]], clients: int, memory: list[int] | None = None
) -> dict[str, Any]:
    """What came of the requests; the memory of this process meanwhile is appended to ``memory``."""
    text = "\n".join(map(json.dumps, bodies))
    process = subprocess.Popen(
        [sys.executable, str(CLIENTS), url, str(clients)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    done: list[str] = []
    talk = threading.Thread(target=lambda: done.append(process.communicate(text)[0]), name="talk")
    talk.start()
    while talk.is_alive():
        talk.join(5)
        if memory is not None:
            memory.append(resident())
    found: dict[str, Any] = json.loads(done[0])
    return found


def offline(pipe: Pipeline, bodies: Sequence[dict[str, Any]], slots: int) -> int:
    """The new ids of the engine alone."""
    total, step, settings = 0, 2 * slots, Settings()
    for at in range(0, len(bodies), step):
        given = [
            pipe.submit(
                read_messages(one["messages"], settings),
                max_new_tokens=one["max_tokens"],
                guided=Guided(regex=one["guided_regex"]),
            )
            for one in bodies[at : at + step]
        ]
        total += sum(one.wait().usage.new_tokens for one in given)
    return total


def rounds(
    pipe: Pipeline, bodies: Sequence[dict[str, Any]], options: argparse.Namespace
) -> tuple[list[tuple[Side | None, Side]], list[dict[str, Any]], list[int]]:
    """Pairs of the engine alone and the server, what the clients saw, and the memory."""
    pairs, loads, memory = list[tuple[Side | None, Side]](), list[dict[str, Any]](), list[int]()

    def measured(tokens: int, before: tuple[float, float, dict[str, float]], wall: float) -> Side:
        threads = thread_seconds()
        spent = {name: threads[name] - before[2].get(name, 0) for name in threads}
        shown = {name: round(value, 2) for name, value in sorted(spent.items()) if value > 0.05}
        return Side(tokens, wall, time.process_time() - before[1], shown)

    def now() -> tuple[float, float, dict[str, float]]:
        return time.perf_counter(), time.process_time(), thread_seconds()

    for _ in range(options.rounds):
        alone = None
        if not options.no_offline:
            pipe.clear_caches()
            offline(pipe, bodies[: options.slots], options.slots)
            before = now()
            tokens = offline(pipe, bodies, options.slots)
            alone = measured(tokens, before, time.perf_counter() - before[0])
        pipe.clear_caches()
        with serving(pipe, options) as url:
            asked_by_clients(url, bodies[: options.slots], options.clients)
            before = now()
            load = asked_by_clients(url, bodies, options.clients, memory)
            pairs.append((alone, measured(load["tokens"], before, load["wall"])))
        loads.append(load)
        print(
            json.dumps({"engine": vars(alone) if alone else None, "server": vars(pairs[-1][1])}),
            flush=True,
        )
    return pairs, loads, memory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="hdvl/small")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--waiting", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument(
        "--prefix-mib", type=float, default=1024, help="memory of the cache of prompts"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", action="store_true", help="ask for streams")
    parser.add_argument("--no-offline", action="store_true", help="leave the engine alone out")
    options = parser.parse_args()
    urls = images(options.images, options.size)
    bodies = [body(options.checkpoint, number, urls, options) for number in range(options.requests)]
    pipe = load(
        options.checkpoint,
        engine={"max_slots": options.slots, "prefix_cache_bytes": int(options.prefix_mib * 2**20)},
    )
    pairs, loads, memory = rounds(pipe, bodies, options)
    found = sorted(second for load_ in loads for second in load_["seconds"])
    failures = [text for load_ in loads for text in load_["failures"]]
    both = [(one, other) for one, other in pairs if one is not None]
    cpu = [one.cpu / one.tokens / (other.cpu / other.tokens) for one, other in both]
    wall = [one.wall / one.tokens / (other.wall / other.tokens) for one, other in both]
    shown = {
        "requests": len(found),
        "clients": options.clients,
        "failures": len(failures),
        "refused_and_sent_again": sum(load_["refused"] for load_ in loads),
        "median_seconds": round(statistics.median(found), 3),
        "p95_seconds": round(found[int(0.95 * (len(found) - 1))], 3),
        "of_the_engine_alone_by_cpu": [round(value, 3) for value in cpu],
        "of_the_engine_alone_by_time": [round(value, 3) for value in wall],
        "memory_mib": [round(value / 2**20) for value in memory[:: max(1, len(memory) // 20)]],
    }
    print(json.dumps(shown, indent=1))
    for text in failures[:5]:
        print(text, file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
