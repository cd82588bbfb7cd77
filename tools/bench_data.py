"""Loading of small JPEGs: hdvl's loaders against DataLoader + PIL + float32, and waiting time in a training.

    python tools/bench_data.py [--rounds 5] [--images 2000] [--no-training]

Images of 320x240 are made on the spot and squashed to 224x224, 32 a batch. Every kind of loader runs
once a round, in turn, each in a process of its own that also counts the CPU of its workers. Printed are
samples per CPU second (median and range), the paired ratio to the usual pipeline (DataLoader, PIL,
float32 normalised, 2 processes; median of the ratios of the same round) and samples per wall second, which
on a shared machine say little. The second part trains a small model on the same images with 2 threads
and 2 processes, and prints what share of the steps was spent waiting for data.
"""

import argparse
import io
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset

from hdvl.data.module import ChatData
from hdvl.data.readers import LlavaConversations
from hdvl.data.threads import ThreadLoader
from hdvl.processor import Processor
from hdvl.tilers import Squash

SIZE, BATCH = 224, 32
USUAL = "PIL, float32, 2 processes"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# --- images -----------------------------------------------------------------------------------


def make_images(folder: Path, count: int) -> None:
    """Photo-like JPEGs of 320x240, quality 90, and a file of LLaVA-style rows that names them."""
    draw, rows = np.random.default_rng(0), []
    for number in range(count):
        canvas = np.zeros((240, 320, 3), np.float32)
        for octave in range(6):
            cells = 2 ** (octave + 2)
            coarse = draw.normal(0, 60 / 1.6**octave, (cells, cells, 3))
            small = Image.fromarray((coarse + 128).clip(0, 255).astype(np.uint8))
            canvas += np.asarray(small.resize((320, 240), Image.Resampling.BICUBIC)) - 128.0
        canvas += draw.normal(0, 6, canvas.shape)
        buffer = io.BytesIO()
        image = Image.fromarray((canvas + 128).clip(0, 255).astype(np.uint8))
        image.save(buffer, "JPEG", quality=90)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
        turns = [
            {"from": "human", "value": "<image>\nWhat is to be seen?"},
            {"from": "gpt", "value": f"Noise of six octaves, number {number}."},
        ]
        rows.append({"id": number, "image": f"{number}.jpg", "conversations": turns})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))


# --- loaders ------------------------------------------------------------------------------------


class Usual(Dataset[torch.Tensor]):
    """PIL, and what torchvision's transforms do: resize, to float, normalise; or bytes as they are."""

    def __init__(self, folder: Path, count: int, *, floats: bool) -> None:
        self.folder, self.count, self.floats = folder, count, floats
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.folder / f"{index}.jpg") as image:
            small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)
        if not self.floats:
            return pixels.contiguous()
        return (pixels.contiguous().float().div_(255) - self.mean) / self.std


class Tiled(Dataset[torch.Tensor]):
    """hdvl's tiler, and nothing else: uint8 tiles."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.tiler = Squash(tile_size=SIZE, backend="exact")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.tiler(self.folder / f"{index}.jpg").pixels


def usual(folder: Path, count: int, *, floats: bool, workers: int) -> Any:
    return DataLoader(Usual(folder, count, floats=floats), BATCH, num_workers=workers)


def tiled(folder: Path, count: int, *, threads: int = 0, processes: int = 0) -> Any:
    data = Tiled(folder, count)
    batches = BatchSampler(range(count), BATCH, False)
    if threads:
        return ThreadLoader(data, batches, collate=torch.cat, num_workers=threads)
    return DataLoader(data, batch_sampler=batches, num_workers=processes, collate_fn=torch.cat)


def whole(folder: Path, count: int, **workers: Any) -> Any:
    """The complete preprocessing of a training: rows, images, ids and labels, batches."""
    data = chat(folder, **workers)
    data.validation = data.conversations
    return data.val_dataloader()


def chat(folder: Path, **options: Any) -> ChatData:
    from hdvl.config import compose
    from hdvl.meta import on_meta

    vlm = on_meta(compose(*MODEL).model)
    rows = LlavaConversations(path=str(folder / "data.jsonl"), image_folder=str(folder))
    return ChatData(train=rows, processor=Processor.of(vlm), batch_size=BATCH, **options)


MODEL = (
    "tiler=squash",
    f"tiler.tile_size={SIZE}",
    "tiler.backend=exact",
    "encoder=tiny",
    "llm=tiny",
)
LOADERS: dict[str, Callable[[Path, int], Any]] = {
    USUAL: lambda f, n: usual(f, n, floats=True, workers=2),
    "PIL, float32, no worker": lambda f, n: usual(f, n, floats=True, workers=0),
    "PIL, uint8, 2 processes": lambda f, n: usual(f, n, floats=False, workers=2),
    "hdvl pixels, 2 threads": lambda f, n: tiled(f, n, threads=2),
    "hdvl pixels, 2 processes": lambda f, n: tiled(f, n, processes=2),
    "hdvl pixels, no worker": lambda f, n: tiled(f, n),
    "hdvl whole samples, 2 threads": lambda f, n: whole(f, n, num_workers=2, workers="threads"),
    "hdvl whole samples, 2 processes": lambda f, n: whole(f, n, num_workers=2),
}


# --- measuring ----------------------------------------------------------------------------------


def cpu() -> float:
    """CPU seconds of this process and of its finished children."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def measure(name: str, folder: Path, count: int) -> dict[str, float]:
    """Samples per CPU second and per wall second of one pass, workers' starts and ends included."""
    torch.set_num_threads(1)
    loader = LOADERS[name](folder, count)
    data = loader.items if isinstance(loader, ThreadLoader) else loader.dataset
    data[0]  # lazy imports, tables of the tokenizer
    before, start = cpu(), time.perf_counter()
    seen = sum(1 for _ in loader)
    del loader
    assert seen == -(-count // BATCH)
    return {"cpu": count / (cpu() - before), "wall": count / (time.perf_counter() - start)}


def in_child(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run ``work`` in a forked process, whose CPU time starts at zero, and return its result."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(writer, "w") as answer:
            answer.write(json.dumps(work()))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        result: dict[str, float] = json.loads(answer.read())
    os.waitpid(child, 0)
    return result


def compare(folder: Path, count: int, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LOADERS}
    for _ in range(rounds):
        for name in LOADERS:
            found[name].append(in_child(partial(measure, name, folder, count)))
    print(f"\n{count} JPEGs of 320x240 -> {SIZE}x{SIZE}, {BATCH} a batch, {rounds} rounds")
    print(f"  {'':<32} {'per CPU s':>10} {'[min-max]':>14} {'ratio':>6} {'per wall s':>11}")
    for name, each in found.items():
        rates = [one["cpu"] for one in each]
        ratio = statistics.median(
            a["cpu"] / b["cpu"] for a, b in zip(each, found[USUAL], strict=True)
        )
        span = f"[{min(rates):.0f}-{max(rates):.0f}]"
        wall = statistics.median(one["wall"] for one in each)
        print(f"  {name:<32} {statistics.median(rates):10.0f} {span:>14} {ratio:6.2f} {wall:11.0f}")


def waiting(folder: Path, workers: str, steps: int = 12) -> dict[str, float]:
    """Share of the time of training steps without a batch, after 2 steps; a small model, one thread."""
    from hdvl.config import build, compose

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vlm = build(compose(*MODEL).model)
    data = chat(folder, num_workers=2, workers=workers)
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=1e-4)
    stream: Iterator[Any] = iter(data.train_dataloader())
    waits, seconds = [], []
    for step in range(steps + 2):
        start = time.perf_counter()
        batch = next(stream)
        ready = time.perf_counter()
        output = vlm(
            batch.input_ids, batch.pixels, batch.plans, None, batch.labels, all_logits=False
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        if step > 1:
            waits.append(ready - start)
            seconds.append(time.perf_counter() - start)
    return {"wait": sum(waits) / sum(seconds), "step": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument(
        "--no-training", action="store_true", help="leave the wait of a training out"
    )
    arguments = parser.parse_args()
    import transformers  # noqa: F401  (once, before the forks)

    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), arguments.images)
        print(f"torch {torch.__version__}, Pillow {Image.__version__}, OMP_NUM_THREADS="
              f"{os.environ['OMP_NUM_THREADS']}", flush=True)  # fmt: skip
        compare(Path(folder), arguments.images, arguments.rounds)
        for workers in () if arguments.no_training else ("threads", "processes"):
            found = in_child(partial(waiting, Path(folder), workers))
            print(
                f"  training, 2 {workers:<10} {100 * found['wait']:.1f} % of the time waiting, "
                f"median step {found['step']:.2f} s"
            )


if __name__ == "__main__":
    main()
