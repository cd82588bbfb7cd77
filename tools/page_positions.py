"""Positions of the tokens of small documents in training, as if their image were the whole page around them.

``tools/train_small.py`` gives a small document the coordinates of a place on a large page. The tokens of the
text around it are missing then, so that a line is followed by the next one after 20 to 60 tokens, and the
questions by at most 1,500; on the page these are 60 and 3,600. With the positions that the tokens would have
on the page, the language model learns to attend over the distances of whole pages at the cost of small ones.
"""

import torch
from pretraining import TOKEN
from shared_attention import shared
from torch import Tensor
from train_small import place

from hdvl.processor import Batch
from hdvl.protocols import TilePlan, Tiler


def page_positions(batch: Batch, image_token_id: int, tiler: Tiler) -> Tensor:
    """The position of each token of a packed row (s) whose segments have an image each.

    The visual tokens of an image end with its grid, in which each row is followed by one more token. Those of
    the questions follow the last token of the page.
    """
    assert batch.segments is not None
    found, start = list[Tensor](), 0
    for segment, plan in zip(batch.segments, batch.plans, strict=True):
        first, *rests = shared(segment)
        ids = batch.input_ids[0, start : start + first]
        end = int((ids == image_token_id).nonzero()[-1]) + 1
        grid, after = grid_positions(plan, tiler)
        begin = end - len(grid)
        behind = begin + after + torch.arange(first - end)
        found += [torch.arange(begin), begin + grid, behind]
        asked = begin + after + first - end
        found += [torch.arange(asked, asked + rest) for rest in rests]
        start += first + sum(rests)
    return torch.cat(found)


def grid_positions(plan: TilePlan, tiler: Tiler) -> tuple[Tensor, int]:
    """Where the tokens of an image's grid stand on the page around it, and how many tokens that has."""
    x, y, *page = place(plan.width, plan.height)
    cols, rows = (side // TOKEN for side in plan.canvas)
    page_cols, page_rows = (side // TOKEN for side in tiler.plan(*page).canvas)
    left = min(x * page_cols // page[0], page_cols - cols)
    top = min(y * page_rows // page[1], page_rows - rows)
    row, col = torch.arange(rows)[:, None], torch.arange(cols + 1)
    across = torch.where(col < cols, left + col, page_cols)
    positions = (top + row) * (page_cols + 1) + across
    return positions.flatten(), page_rows * (page_cols + 1)
