"""A training step of a small VLM: packed by hdvl against padding and against packing under a mask.

    OMP_NUM_THREADS=1 python tools/bench_training.py [--samples 16] [--budget 4096] [--rounds 5]
        [--threads 1 2] [--dtypes fp32 bf16] [--curves docs/training_cost]

About 10M parameters: ViT of width 192 and 4 layers on 224-px tiles of 14-px patches, pixel shuffle to
64 tokens a tile, Qwen2 of width 256 and 6 layers, 8192 ids. Samples have 1..12 tiles and log-normal
text; a tenth of the tokens is supervised. A step is forward, backward and AdamW over all samples.
All ways run in turn in each round; one thread is timed in CPU seconds, several in wall time; medians
[min-max], ratios paired by round. bf16 is autocast for everyone. The padded way is transformers' own
InternVL class; the masked one packs rows of 2560 tokens first-fit and builds the block-diagonal mask.
"""

import argparse
import csv
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from bench_encoder import gemm_rate
from torch.utils.flop_counter import FlopCounterMode
from training_ways import DTYPES, autocast, loss_of, make_sample, mix, own_model, peer_model, ways

from hdvl.files import atomic_write
from hdvl.processor import Sample, collate, pack


def peak_bytes() -> Iterator[float]:
    """Resident memory at its highest since the iterator was made, in MB over what it was then."""
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(name: str) -> float:
        line = next(text for text in status.read_text().splitlines() if text.startswith(name))
        return float(line.split()[1]) / 1024

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that the previous way has freed
    refs.write_text("5")
    before = read("VmRSS")
    yield before
    yield read("VmHWM") - before


def compare(samples: list[Sample], args: argparse.Namespace, threads: int, name: str) -> None:
    dtype, vlm = DTYPES[name], own_model()
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    todo, tokens = ways(samples, vlm, args.batch, args.budget), sum(len(s.ids) for s in samples)
    with FlopCounterMode(display=False) as flops, autocast(dtype):
        for loss in todo["hdvl, packed"].losses:
            loss().backward()
    vlm.zero_grad()
    times: dict[str, list[float]] = {label: [] for label in todo}
    memory: dict[str, float] = {}
    firsts, peak = {}, 0.0
    for number in range(args.rounds + 1):  # the first one warms up
        peak = max(peak, gemm_rate(1024, dtype) * (threads if threads > 1 else 1))
        for label, step in todo.items():
            reader = peak_bytes()
            next(reader)
            start = clock()
            loss = step(dtype)
            seconds = clock() - start
            memory[label] = next(reader)
            firsts.setdefault(label, loss)
            if number:
                times[label].append(seconds)
    unit = "CPU s" if threads == 1 else "wall s"
    print(
        f"\n{name}, {threads} thread(s), {args.rounds} rounds, {unit}; GEMM 1024: {peak:.0f} GFLOP/s"
    )
    base = times["hdvl, packed"]
    for label, seconds in times.items():
        ratios = sorted(s / b for s, b in zip(seconds, base, strict=True))
        middle = statistics.median(seconds)
        print(
            f"  {label:36} {middle:6.2f} [{min(seconds):.2f}-{max(seconds):.2f}]  "
            f"{tokens / middle:6.0f} useful tok/s  padding {1 - tokens / todo[label].slots:4.0%}  "
            f"peak {memory[label]:5.0f} MB  time / packed {statistics.median(ratios):.2f} "
            f"[{ratios[0]:.2f}-{ratios[-1]:.2f}]"
        )
    share = flops.get_total_flops() / 1e9 / statistics.median(base) / peak
    print(
        f"  packed: {flops.get_total_flops() / 1e12:.2f} TFLOP, {share:.0%} of GEMM peak; first loss "
        f"{firsts['hdvl, packed']:.6f}, dense mask {firsts['rows of 2560, dense mask']:.6f}"
    )


def check(samples: Sequence[Sample]) -> None:
    """Packed against padded, in fp32: loss and gradients of one model."""
    vlm, some = own_model(), samples[:4]
    found = []
    for batch in (pack(some), collate(some, pad_id=0)):
        loss = loss_of(vlm, batch, float((batch.labels != -100).sum()))
        found.append((loss, torch.autograd.grad(loss, list(vlm.parameters()))))
    (packed, ours), (padded, theirs) = found
    worst = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    print(
        f"packed - padded: loss {abs(float((packed - padded).detach())):.1e}, gradients {worst:.1e}"
    )


def curves(path: Path, rounds: int) -> None:
    """Seconds of forward and backward against tiles and against the length of a text."""
    torch.set_num_threads(1)
    vlm, generator = own_model(), torch.Generator().manual_seed(0)
    rows: list[tuple[str, int, float]] = []
    for what, numbers in (
        ("tiles", [1, 2, 5, 10, 20, 40]),
        ("tokens", [512, 1024, 2048, 4096, 8192]),
    ):
        for number in numbers:
            sizes = (number, 64) if what == "tiles" else (0, number)
            batch = pack([make_sample(vlm, *sizes, generator)])
            best = float("inf")
            for _ in range(rounds):
                start = time.process_time()
                loss_of(vlm, batch, 1.0).backward()
                best = min(best, time.process_time() - start)
            rows.append((what, number, best))
            print(f"  {what} {number}: {best:.2f} CPU s, {best / number * 1e3:.2f} ms each")
    with atomic_write(path.with_suffix(".csv")) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([("what", "count", "cpu_seconds"), *rows])
    plot(rows, path.with_suffix(".png"))


def plot(rows: Sequence[tuple[str, int, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, what in zip(axes, ("tiles", "tokens"), strict=True):
        points = [(number, seconds) for name, number, seconds in rows if name == what]
        axis.plot(*zip(*points, strict=True), marker="o")
        first = points[-1]
        axis.plot([0, first[0]], [0, first[1]], ":", color="grey", label="linear")
        axis.set(xlabel=what, ylabel="CPU seconds, forward + backward")
        axis.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8, help="samples a padded batch")
    parser.add_argument("--budget", type=int, default=4096, help="tokens a pack")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--curves", type=Path, help="where to write the .csv and .png of costs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    vlm = own_model()
    samples = mix(vlm, args.samples)
    lengths = [len(sample.ids) for sample in samples]
    print(
        f"hdvl {sum(p.numel() for p in vlm.parameters()) / 1e6:.1f}M parameters, InternVL "
        f"{sum(p.numel() for p in peer_model(0).parameters()) / 1e6:.1f}M; {len(samples)} samples, "
        f"{sum(lengths)} tokens (longest {max(lengths)}), {sum(len(s.pixels) for s in samples)} tiles"
    )
    check(samples)
    for threads in args.threads:
        for name in args.dtypes:
            compare(samples, args, threads, name)
    if args.curves is not None:
        curves(args.curves, args.rounds)


if __name__ == "__main__":
    sys.exit(main())
