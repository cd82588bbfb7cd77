"""Speed and memory of an answer by any composition with random weights, on any device.

    python tools/profile_inference.py model=qwen_vl_chat llm.rules=null [--new 1792 7934] [--dtype bfloat16]
        [--device cuda] [--size 448 448] [--rounds 3] [--share 0.1] [--compile] [--weights plain int8 nf4]

The prompt is one image and two ids, as in the table of Qwen-VL's README (contexts of 2048 and 8192 ids).
The engine answers greedily and never stops early. The time of the first id holds the encoder and the
prompt; the rate is that of all later ids. The roof is the rate at which the weights and the keys and values
of a step can be read from memory, measured by copying a large tensor in the same process. On a device that
is too slow for the whole answer, ``--share`` generates a part of it.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch
from PIL import Image

from hdvl.config import build, compose, resolve
from hdvl.decoding import SamplingParams
from hdvl.inference.engine import Engine
from hdvl.inference.generation import Request
from hdvl.model import VLM
from hdvl.quantisation import quantise_llm


def clock() -> float:
    """Return the time in seconds after all work of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def copy_rate(device: str) -> float:
    """Return the bytes read and written per second by a copy."""
    source = torch.empty(2**31 if device != "cpu" else 2**28, dtype=torch.uint8, device=device)
    target, times = torch.empty_like(source), []
    for _ in range(6):
        start = clock()
        target.copy_(source)
        times.append(clock() - start)
    return 2 * len(source) / statistics.median(times[1:])


def prompt(vlm: VLM, size: tuple[int, int], new: int) -> Request:
    """One image of noise, and one id before and one after it."""
    torch.manual_seed(0)
    noise = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8)
    tiles = vlm.tiler(Image.fromarray(noise.numpy()))
    slots = torch.full((vlm.merger.token_count(tiles.plan),), vlm.image_token_id)
    ids = torch.cat([torch.tensor([11]), slots, torch.tensor([12])])
    params = SamplingParams(max_new_tokens=new, stop_ids=())
    return Request(ids=ids, pixels=tiles.pixels, plans=(tiles.plan,), params=params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--new", type=int, nargs="+", default=[1792, 7934])
    parser.add_argument("--size", type=int, nargs=2, default=(448, 448))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the new ids that is made"
    )
    parser.add_argument("--compile", action="store_true", help="compile decoding steps")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=["plain"],
        choices=["plain", "int8", "nf4"],
        help="of the language model: as they are, of 8 bits (torchao), or of 4 bits (bitsandbytes)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    bandwidth = copy_rate(args.device)
    for kind in args.weights:
        profile(args, kind, bandwidth)


def profile(args: argparse.Namespace, kind: str, bandwidth: float) -> None:
    """Build the model with weights of one kind and print what its answers take."""
    torch.set_default_dtype(getattr(torch, args.dtype))
    with torch.device(args.device):
        vlm = build(resolve(compose(*args.overrides))["model"]).eval()
    torch.set_default_dtype(torch.float32)
    if kind != "plain":
        quantise_llm(vlm.llm, kind)
    weights = sum(stored_bytes(p) for p in vlm.llm.parameters())
    table = vlm.llm.embedding_layers()[0].weight
    if len(vlm.llm.embedding_layers()) > 1 and vlm.llm.embedding_layers()[1].weight is not table:
        weights -= table.numel() * table.element_size()  # of which a step reads one row
    print(
        f"{' '.join(args.overrides)}, {args.dtype}, weights {kind}, on {args.device}: {weights / 1e9:.3f} "
        f"GB a step, {bandwidth / 1e9:,.0f} GB/s",
        flush=True,
    )
    engine = Engine(
        vlm, max_slots=1, image_cache_bytes=0, prefix_cache_bytes=0, compile=args.compile
    )
    counts = sorted((max(2, int(new * args.share)) for new in args.new), reverse=True)
    start = clock()
    # Room for the longest answer is made at once: it would be compiled anew otherwise.
    warm_up = replace(prompt(vlm, tuple(args.size), counts[0]), ended=lambda ids: len(ids) >= 16)
    engine.submit(warm_up).wait()
    print(f"warm-up took {clock() - start:.1f} s", flush=True)
    for count in counts:
        measure(vlm, engine, count, args, bandwidth, weights)


def stored_bytes(parameter: torch.Tensor) -> int:
    """The bytes that a weight takes; of packed weights those of the tensors that they consist of."""
    if hasattr(parameter, "__tensor_flatten__"):
        names, _ = parameter.__tensor_flatten__()
        return sum(stored_bytes(getattr(parameter, name)) for name in names)
    size = parameter.numel() * parameter.element_size()
    state = getattr(parameter, "quant_state", None)  # bitsandbytes keeps the scales of nf4 in it
    return size if state is None else size + state.absmax.numel() * state.absmax.element_size()


def measure(
    vlm: VLM, engine: Engine, count: int, args: argparse.Namespace, bandwidth: float, weights: int
) -> None:
    """Print the speed and the memory of answers of ``count`` ids."""
    cuda, rates, firsts = args.device != "cpu", [], []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(args.rounds):
        start = clock()
        answer = engine.submit(prompt(vlm, tuple(args.size), count)).wait()
        seconds, first = clock() - start, answer.usage.first_token_seconds
        assert len(answer.decoding.ids) == count
        rates.append((count - 1) / (seconds - first))
        firsts.append(first)
    kept = engine.scheduler.slots.bytes_per_token * (answer.usage.prompt_tokens + count / 2)
    roof, rate = bandwidth / (weights + kept), statistics.median(rates)
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if cuda else "unmeasured"
    print(
        f"{count} new ids: first after {statistics.median(firsts):.3f} s, then {rate:.2f} ids/s "
        f"[{min(rates):.2f}-{max(rates):.2f}] = {rate / roof:.0%} of the roof of {roof:.1f}; "
        f"peak memory {memory}",
        flush=True,
    )


if __name__ == "__main__":
    main()
