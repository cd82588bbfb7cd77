"""Write statistics of the training images' visual tokens to a model folder (training_images.json).

    python tools/measure_familiarity.py --model hdvl/assets/small [--count 200] [--held-out 150]

The images are those of ``tools/train_wide.py``: pages of the first seven kinds, pages of other layouts and
smaller documents of these in turn, in many fonts. The limit is measured on documents of the seed of
``tools/evaluate_small.py``. ``hdvl infer`` then says of an image that it is unlike them.
"""

import argparse
from pathlib import Path

import torch
from evaluate_small import HELD_OUT_SEED
from torch import Tensor
from train_wide import PAGE, PARTS, STYLED_OTHERS

import hdvl
from hdvl.data.synthetic import SyntheticDocuments
from hdvl.inference.familiarity import Familiarity


@torch.inference_mode()
def visual_tokens(pipe, seed: int, count: int) -> list[Tensor]:
    options = {"seed": seed, "fonts": "many", "entries": (3, 14), "font_size": (12, 19)}
    page, part = ({"width": width, "height": height} for width, height in (PAGE, PARTS[-1]))
    others = {"kinds": "described", "photographed": 1 / 3, "styled": STYLED_OTHERS}
    kinds = (page, {**page, **others}, {**part, **others})
    documents = [SyntheticDocuments(**options, **kind) for kind in kinds]
    found = []
    for number in range(count):
        tiles = pipe.tiler(documents[number % 3][number].image)
        found += pipe.model.encode_images(tiles.pixels, [tiles.plan])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("hdvl/assets/small"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--held-out", type=int, default=150)
    args = parser.parse_args()
    pipe = hdvl.load(args.model)
    training = visual_tokens(pipe, 0, args.count)
    found = Familiarity.measure(training, visual_tokens(pipe, HELD_OUT_SEED, args.held_out))
    found.write(args.model)
    print(f"{len(training)} images; images farther than {found.limit:.2f} are unlike them")


if __name__ == "__main__":
    main()
