"""Time and memory of training steps of any composition with random weights, on any device.

    python tools/profile_training.py model=qwen_vl_chat tuning=bridge_lora [--length 2048] [--rows 8]
        [--device cuda] [--steps 3] [--recompute encoder llm] [--documents 1 --images 1 --size 448 448]

A step is forward and backward over ``rows`` packed rows of ``length`` tokens, one after the other, and AdamW
over what trains. Weights are bfloat16 and so is arithmetic. A row holds documents of ``images`` images
and text; all text is supervised. FLOPs are those that ``hdvl plan`` counts for such a document, without
what recomputation adds; their share is that of a square matrix product measured in the same process.
"""

import argparse
import statistics
import time

import torch
from PIL import Image

from hdvl.config import build, compose, resolve
from hdvl.loss import IGNORED
from hdvl.meta import on_meta
from hdvl.model import VLM
from hdvl.processor import Batch, Sample, pack
from hdvl.training.estimate import measure
from hdvl.training.recompute import recompute
from hdvl.training.step_loss import batch_loss
from hdvl.training.tuning import apply_tuning
from hdvl.views import join_pixels


def document(vlm: VLM, length: int, images: int, size: tuple[int, int], seed: int) -> Sample:
    """Noise images in front of random text, ``length`` ids in all; the text is supervised."""
    torch.manual_seed(seed)
    tiles = [vlm.tiler(Image.effect_noise(size, 80).convert("RGB")) for _ in range(images)]
    slots = sum(vlm.merger.token_count(cut.plan) for cut in tiles)
    rows = min(1000, len(vlm.llm.embedding_layers()[0].weight))
    text = torch.randint(5, rows, (length - slots,))
    text[text == vlm.image_token_id] = 4
    image = torch.full((slots,), vlm.image_token_id)
    return Sample(
        ids=torch.cat([image, text]),
        labels=torch.cat([torch.full_like(image, IGNORED), text]),
        pixels=join_pixels([cut.pixels for cut in tiles]),
        plans=tuple(cut.plan for cut in tiles),
    )


def train_step(vlm: VLM, rows: list[Batch], optimizer: torch.optim.Optimizer) -> float:
    """Forward, backward and AdamW over ``rows``; the seconds it took."""
    start = clock()
    for row in rows:
        loss, weight = batch_loss(vlm, row)
        (loss / weight / len(rows)).backward()
    optimizer.step()
    optimizer.zero_grad()
    return clock() - start


def clock() -> float:
    """Return the time in seconds after all work of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_rate(device: str, size: int = 8192) -> float:
    """FLOP/s of a bfloat16 product of square matrices."""
    size = size if device != "cpu" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(8):
        start = clock()
        left @ right
        times.append(clock() - start)
    return 2 * size**3 / statistics.median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--documents", type=int, default=1, help="documents of a row")
    parser.add_argument("--images", type=int, default=1, help="images of a document")
    parser.add_argument("--size", type=int, nargs=2, default=(448, 448))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--recompute", nargs="*", default=[], choices=["encoder", "llm"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    config = resolve(compose(*args.overrides))
    size, length = tuple(args.size), args.length // args.documents

    planned = on_meta(config["model"])
    apply_tuning(planned, config["tuning"])
    slots = args.images * planned.merger.token_count(planned.tiler.plan(*size))
    if slots >= length:
        parser.error(
            f"a document's {length} tokens must exceed its {slots} image slots; raise --length"
        )
    cost = measure(planned, planned.tiler.plan(*size), text_tokens=length - slots)
    flops = cost.step * args.documents * args.rows

    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        vlm = build(config["model"])
    torch.set_default_dtype(torch.float32)
    vlm = vlm.train()
    apply_tuning(vlm, config["tuning"])
    recompute(vlm, args.recompute)
    rows = [
        pack([document(vlm, length, args.images, size, d + r) for d in range(args.documents)])
        for r in range(args.rows)
    ]
    rows = [row.to(args.device) for row in rows]
    optimizer = torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad], lr=1e-5)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    times = [train_step(vlm, rows, optimizer) for _ in range(args.steps + 1)][1:]
    seconds, peak = statistics.median(times), matmul_rate(args.device)
    tokens = args.rows * args.length
    on_cpu = args.device == "cpu"
    memory = "unmeasured" if on_cpu else f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    print(
        f"{' '.join(args.overrides)}: {args.rows} rows of {args.length} tokens, {seconds:.2f} s a step "
        f"[{min(times):.2f}-{max(times):.2f}], {tokens / seconds:,.0f} tokens/s, peak memory "
        f"{memory}, {flops / seconds / 1e12:.2f} TFLOP/s = {flops / seconds / peak:.0%} of a "
        f"matrix product's {peak / 1e12:.2f}"
    )


if __name__ == "__main__":
    main()
