"""JPEG bytes to tiles and a thumbnail: hdvl against the processors of transformers.

    python tools/bench_tiling.py [--rounds 7] [--sizes 1024x768 2048x1536 4032x3024] [--no-memory]

One process, one thread, every method once a round, in turn. Printed are CPU milliseconds (median
and range), and the paired ratio to hdvl's exact mode (median of the ratios of the same round; above
1 means that hdvl is faster). Beside them stand the largest difference and the decibels to Pillow's
bicubic, and the peak memory of one image over what the process held before it. The images are
synthetic: 1/f noise, shapes and sensor noise. hdvl's tiles are uint8, normalised by the model later;
those of transformers are normalised float32.
"""

import argparse
import gc
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torchvision
from PIL import Image
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from hdvl.tilers import DynamicRatio

TILE, MOST = 448, 12
BASE = "hdvl exact"
Method = Callable[[bytes], Any]


# --- images -----------------------------------------------------------------------------------


def photo(width: int, height: int) -> bytes:
    """A photo-like JPEG, quality 90, 4:2:0."""
    draw = np.random.default_rng(width)
    canvas = np.zeros((height, width, 3), np.float32)
    for octave in range(7):
        cells = 2 ** (octave + 2)
        coarse = draw.normal(0, 60 / 1.7**octave, (cells * 3 // 4, cells, 3)).astype(np.float32)
        layers = [
            Image.fromarray(np.ascontiguousarray(coarse[..., channel])).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for channel in range(3)
        ]
        canvas += np.stack([np.asarray(layer) for layer in layers], -1)
    for _ in range(40):
        x, y = int(draw.integers(0, width)), int(draw.integers(0, height))
        w, h = int(draw.integers(8, width // 6)), int(draw.integers(8, height // 6))
        canvas[y : y + h, x : x + w] += draw.normal(0, 40, 3)
    canvas += draw.normal(0, 3, canvas.shape)
    image = Image.fromarray((canvas + 128).clip(0, 255).astype(np.uint8))
    return jpeg(image)


def page(width: int = 2480, height: int = 3508) -> bytes:
    """A page of small black marks in lines, like text."""
    draw = np.random.default_rng(1)
    canvas = np.full((height, width, 3), 255, np.uint8)
    for top in range(200, height - 200, 56):
        for left in range(200, width - 200, 24):
            if draw.random() < 0.85:
                mark = draw.random((9, 5)) < 0.5
                ink = np.kron(mark, np.ones((4, 4), bool))
                canvas[top : top + 36, left : left + 20][ink] = 20
    return jpeg(Image.fromarray(canvas))


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=2)
    return buffer.getvalue()


# --- methods ------------------------------------------------------------------------------------


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def methods() -> dict[str, Method]:
    """What is measured, by name; each turns the bytes of a JPEG into tiles."""
    slab = torch.empty((MOST + 1) * TILE * TILE * 3, dtype=torch.uint8)
    ours: dict[str, Any] = {
        mode: DynamicRatio(tile_size=TILE, max_tiles=MOST, backend=mode)
        for mode in ("exact", "fast", "pillow")
    }
    # pinpoints (height, width): LLaVA-NeXT's own, and the grids that InternVL's rule comes to here
    grids = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 4), (3, 2)]
    pinpoints = [[rows * TILE, cols * TILE] for rows, cols in grids]
    square = {"height": TILE, "width": TILE}
    llava = {"size": {"shortest_edge": TILE}, "crop_size": square}
    got = {"size": square, "crop_to_patches": True, "max_patches": MOST}
    llava_pil = LlavaNextImageProcessorPil(image_grid_pinpoints=pinpoints, **llava)
    llava_tv = LlavaNextImageProcessor(image_grid_pinpoints=pinpoints, **llava)
    got_pil, got_tv = GotOcr2ImageProcessorPil(**got), GotOcr2ImageProcessor(**got)

    def decoded(data: bytes) -> torch.Tensor:
        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return torchvision.io.decode_jpeg(raw, mode=torchvision.io.ImageReadMode.RGB)

    return {
        BASE: ours["exact"],
        "hdvl exact, out=": lambda data: ours["exact"](data, out=slab),
        "hdvl fast": ours["fast"],
        "hdvl fast, out=": lambda data: ours["fast"](data, out=slab),
        "hdvl pillow": ours["pillow"],
        "LLaVA-NeXT, PIL": lambda data: llava_pil(opened(data), return_tensors="pt"),
        "LLaVA-NeXT, torchvision": lambda data: llava_tv(opened(data), return_tensors="pt"),
        "LLaVA-NeXT, tv decode": lambda data: llava_tv(decoded(data), return_tensors="pt"),
        "InternVL, PIL": lambda data: got_pil(opened(data), return_tensors="pt"),
        "InternVL, torchvision": lambda data: got_tv(opened(data), return_tensors="pt"),
        "InternVL, tv decode": lambda data: got_tv(decoded(data), return_tensors="pt"),
    }


# --- measuring ----------------------------------------------------------------------------------


def measure(run: dict[str, Method], data: bytes, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of each method in each round, the methods in turn, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in run}
    for number in range(rounds + 1):
        for name, method in run.items():
            gc.collect()
            start = time.process_time()
            method(data)
            if number:
                times[name].append((time.process_time() - start) * 1e3)
    return times


def in_child(work: Callable[[], bytes]) -> bytes:
    """What ``work`` returns, done in a forked child: this process stays as small as it was."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writer, "wb") as answer:
            answer.write(work())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        result = answer.read()
    os.waitpid(child, 0)
    return result


def peak_mib(method: Method, warm: bytes, data: bytes) -> float:
    """Peak resident memory of one call, the result included, over what was held before (Linux)."""

    def work() -> bytes:
        method(warm)
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        kept = method(data)
        peak = resident("VmHWM") - before
        del kept
        return str(peak).encode()

    return float(in_child(work)) / 1024


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def quality(tiles: Any, reference: Any) -> str:
    """Largest difference and decibels to Pillow's pixels, of hdvl's own methods."""
    assert tiles.plan == reference.plan
    error = (tiles.pixels.int() - reference.pixels.int()).abs()
    mean = error.double().square().mean().item()
    decibels = f"{10 * np.log10(255**2 / mean):.1f} dB" if mean else "equal"
    return f"max {error.max().item()}, {decibels}"


def tile_count(result: Any) -> int:
    """Tiles in what a method returned."""
    pixels = result.pixels if hasattr(result, "pixels") else result["pixel_values"]
    return int(pixels.shape[0] if pixels.ndim == 4 else pixels.shape[1])


def report(label: str, data: bytes, rounds: int, memory: bool) -> None:
    run = methods()
    small = in_child(lambda: photo(640, 480))
    # before anything runs here: memory that this process has freed would hide what a call takes
    peaks = {name: peak_mib(run[name], small, data) for name in run} if memory else {}
    reference = run["hdvl pillow"](data)
    times = measure(run, data, rounds)
    print(f"\n{label}, JPEG of {len(data) / 1e3:.0f} kB, {rounds} rounds, CPU ms")
    print(f"  {'':<24} {'median':>8} {'[min-max]':>16} {'/ exact':>8} {'MiB':>6}  tiles  to Pillow")
    for name, method in run.items():
        each = times[name]
        ratio = statistics.median(a / b for a, b in zip(each, times[BASE], strict=True))
        result = method(data)
        note = quality(result, reference) if name.startswith("hdvl") else ""
        peak = f"{peaks[name]:6.0f}" if memory else "     -"
        print(
            f"  {name:<24} {statistics.median(each):8.1f} "
            f"{f'[{min(each):.1f}-{max(each):.1f}]':>16} {ratio:8.2f} {peak}  "
            f"{tile_count(result):>5}  {note}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="at least 5")
    parser.add_argument("--sizes", nargs="*", default=["1024x768", "2048x1536", "4032x3024"])
    parser.add_argument("--no-page", action="store_true", help="leave the A4 page out")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    memory = not arguments.no_memory and Path("/proc/self/clear_refs").exists()
    heading = f"torch {torch.__version__}, Pillow {Image.__version__}, tiles of {TILE}, 1 thread"
    print(heading, flush=True)
    work: list[tuple[str, Callable[[], bytes]]] = []
    for size in arguments.sizes:
        width, height = map(int, size.split("x"))
        work.append((f"photo {size}", lambda width=width, height=height: photo(width, height)))
    if not arguments.no_page:
        work.append(("A4 page 2480x3508", page))
    for label, make in work:
        # each in a child, so that one image's freed memory does not hide the next one's peak
        def one(label: str = label, make: Callable[[], bytes] = make) -> bytes:
            report(label, in_child(make), arguments.rounds, memory)
            sys.stdout.flush()
            return b""

        in_child(one)


if __name__ == "__main__":
    main()
