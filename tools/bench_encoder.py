"""Encoding of the tiles of several images with ViT-S/16: a loop over images in fp32 against hdvl.

    OMP_NUM_THREADS=1 python tools/bench_encoder.py [--images 4] [--tiles 13] [--rounds 5]

One thread, all ways in turn in each round; CPU seconds, medians [min-max], ratios paired by round.
The loop is what users of timm write: normalise an image's tiles in fp32, run the model. hdvl takes
the uint8 tiles of all images as one batch, cut into chunks that stay in the cache. bf16 is timed where
the CPU multiplies it faster than fp32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hdvl.encoders import TimmEncoder, encode_in_chunks, normalise

NAME = "vit_small_patch16_224"


def cpu_seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def gemm_rate(size: int, dtype: torch.dtype, repeats: int = 3) -> float:
    """Return the best GFLOP/s of a core for a square matrix product."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / min(cpu_seconds(lambda: torch.mm(a, b)) for _ in range(repeats)) / 1e9


def line(
    label: str, seconds: list[float], base: list[float], tiles: int, work: float, peak: float
) -> str:
    middle = statistics.median(seconds)
    ratios = sorted(b / s for b, s in zip(base, seconds, strict=True))
    return (
        f"{label:34} {middle * 1e3:8.0f} ms [{min(seconds) * 1e3:.0f}-{max(seconds) * 1e3:.0f}]"
        f"  {tiles / middle:6.2f} tiles/s  {work * tiles / middle / peak:5.0%} of GEMM peak"
        f"  x{statistics.median(ratios):.2f} [{ratios[0]:.2f}-{ratios[-1]:.2f}] the loop"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--tiles", type=int, default=13, help="of one image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunks", type=int, nargs="+", default=[13, 4, 1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = TimmEncoder(name=NAME, final_norm=True).eval()
    count = args.images * args.tiles
    tiles = torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8)
    with FlopCounterMode(display=False) as flops:
        encoder(tiles[:1])
    work = flops.get_total_flops() / 1e9
    slow, fast = gemm_rate(512, torch.float32), gemm_rate(512, torch.bfloat16, repeats=1)
    native = fast > 1.2 * slow
    print(f"{NAME}, {args.images} images of {args.tiles} tiles, {work:.1f} GFLOP a tile, 1 thread")
    print(f"GEMM 512: fp32 {slow:.1f} GFLOP/s, bf16 {fast:.1f} GFLOP/s")

    def loop() -> list[Tensor]:
        model, mean, std = encoder.model, encoder.mean, encoder.std
        return [
            model.forward_features(normalise(image, mean, std, torch.float32))[:, 1:]
            for image in torch.split(tiles, args.tiles)
        ]

    ways: dict[str, Callable[[], object]] = {"fp32 loop over images": loop}
    ways["fp32 one batch"] = lambda: encoder(tiles)
    ways["fp32 as hdvl does"] = lambda: encode_in_chunks(encoder, tiles)
    for chunk in args.chunks:
        ways[f"fp32 chunks of {chunk}"] = lambda c=chunk: encode_in_chunks(encoder, tiles, c)
    if native:
        half = deepcopy(encoder).bfloat16()
        ways["bf16 one batch"] = lambda: half(tiles)
        ways["bf16 chunks of 13"] = lambda: encode_in_chunks(half, tiles, 13)
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {label: [] for label in ways}
    peaks = []
    for _ in range(args.rounds):
        peaks.append(gemm_rate(1024, torch.float32))
        for label, run in ways.items():
            times[label].append(cpu_seconds(run))
    peak = max(peaks)
    print(f"GEMM 1024 peak of this run, fp32: {peak:.1f} GFLOP/s; {args.rounds} rounds")
    base = times["fp32 loop over images"]
    for label, seconds in times.items():
        top = gemm_rate(2048, torch.bfloat16) if label.startswith("bf16") else peak
        print(line(label, seconds, base, count, work, top))
    if not native:
        print(
            "bf16 is not timed: this CPU has no fast bf16 product "
            f"({fast:.1f} against {slow:.1f} GFLOP/s in fp32), so use fp32 here"
        )
    difference = (torch.cat(loop()) - encode_in_chunks(encoder, tiles, args.chunks[0])).abs().max()
    print(f"largest difference of features from the loop's: {difference:.1e}")


if __name__ == "__main__":
    main()
