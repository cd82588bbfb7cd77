"""Pre-train the small model's encoder on dense reading labels: which character stands in every cell.

    python tools/pretrain_small_encoder.py --out runs/small/encoder --minutes 12

Restartable: started again with the same --out it goes on from its last checkpoint. Writes
``encoder.safetensors`` (the encoder alone) and ``curve.csv`` (step, seconds, loss, accuracy).
"""

import argparse
import csv
import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.cells import cell_labels, classes
from hdvl.encoders.conv_stem import ConvStem

TILE = 224


class Cells(Dataset):
    """Tiles cut out of documents at random places, with their cells' labels."""

    def __init__(self, seed: int) -> None:
        self.documents = SyntheticDocuments(
            seed=seed, width=(224, 640), height=(224, 320), entries=(4, 10), chinese=0.35
        )

    def __len__(self) -> int:
        return 10_000_000

    def __getitem__(self, index: int):
        document = self.documents[index]
        labels, geometry = cell_labels(document)
        generator = torch.Generator().manual_seed(index)
        rows, cols = labels.shape
        side = TILE // 8
        row = int(torch.randint(rows - side + 1, (), generator=generator))
        col = int(torch.randint(cols - side + 1, (), generator=generator))
        pixels = torch.frombuffer(bytearray(document.image.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(document.image.height, document.image.width, 3)
        tile = pixels[row * 8 : row * 8 + TILE, col * 8 : col * 8 + TILE].permute(2, 0, 1)
        window = slice(row, row + side), slice(col, col + side)
        return tile.contiguous(), labels[window].flatten(), geometry[window].flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    encoder = ConvStem()
    head = nn.Linear(encoder.width, len(classes()) + 1 + 3)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps, pct_start=0.1
    )
    checkpoint, step, spent = args.out / "last.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        encoder.load_state_dict(state["encoder"])
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step, spent = state["step"], state["seconds"]
    data = Cells(args.seed)
    order = range(step * args.batch, args.steps * args.batch)
    loader = DataLoader(
        data, args.batch, sampler=order, num_workers=1, prefetch_factor=4
    )
    started = time.monotonic() - spent
    with (args.out / "curve.csv").open("a", newline="") as file:
        curve = csv.writer(file)
        for tiles, labels, geometry in loader:
            output = head(encoder(tiles))
            logits, places = output[..., :-3], output[..., -3:]
            inked = labels > 0
            weights = torch.where(inked, 1.0, 0.15)
            losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            loss = (losses * weights.flatten()).sum() / weights.sum()
            geometry_loss = nn.functional.smooth_l1_loss(places[inked], geometry[inked])
            optimizer.zero_grad()
            (loss + geometry_loss).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 25 == 0:
                hit = (logits.argmax(-1) == labels)[inked].float().mean().item()
                row = [step, round(time.monotonic() - started), round(loss.item(), 4), round(hit, 4)]
                row.append(round(geometry_loss.item(), 4))
                curve.writerow(row)
                file.flush()
                print("step %d  %d s  loss %.4f  inked cells right %.4f  geometry %.4f" % tuple(row), flush=True)
            if step % 100 == 0 or step == args.steps:
                state = {
                    "encoder": encoder.state_dict(),
                    "head": head.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step,
                    "seconds": time.monotonic() - started,
                }
                torch.save(state, args.out / "last.tmp")
                os.replace(args.out / "last.tmp", checkpoint)
    plain = {name: value.contiguous() for name, value in encoder.state_dict().items()}
    save_file(plain, args.out / "encoder.safetensors")


if __name__ == "__main__":
    main()
