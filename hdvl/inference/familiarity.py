"""Whether an image is like those that a model was trained on.

The visual tokens of an image are summed up by their mean and their standard deviation over the image, and
compared with those of training images. A model that knows one kind of image answers about all others too;
the distance says where such answers are guesses.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hdvl.files import atomic_write, read_json
from hdvl.inference.image_cache import ImageCache, digest
from hdvl.processor import Sample
from hdvl.views import split_pixels

FILE = "training_images.json"
MARGIN = 1.25
"""An image may be this many times as far from the training images as the farthest held-out one."""


@dataclass(frozen=True)
class Familiarity:
    """Statistics of the training images of one model.

    Attributes:
        mean: mean over the images of what :func:`summarise` returns.
        std: its standard deviation over the images.
        limit: the distance above which an image is unlike them.
    """

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    limit: float

    @classmethod
    def measure(cls, training: Sequence[Tensor], held_out: Sequence[Tensor]) -> "Familiarity":
        """The statistics of training images, and the limit by images that were held out.

        Args:
            training: visual tokens (m, e) of each of at least two images.
            held_out: visual tokens of other images of the same kind.
        """
        rows = torch.stack([summarise(tokens) for tokens in training])
        found = cls(rows.mean(0), rows.std(0).clamp_min(1e-6), 0.0)
        farthest = max(found.distance(tokens) for tokens in held_out)
        return cls(found.mean, found.std, MARGIN * farthest)

    @classmethod
    def read(cls, folder: Path) -> "Familiarity | None":
        """The statistics in a model folder; ``None`` if it has none.

        Raises:
            ValueError: the file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        held = read_json(path)
        try:
            mean, std = (torch.tensor(held[name], dtype=torch.float32) for name in ("mean", "std"))
            found = cls(mean, std, float(held["limit"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold mean, std and limit as numbers: {error}") from None
        if mean.shape != std.shape or mean.ndim != 1 or not bool((std > 0).all()):
            raise ValueError(f"{path} must hold as many positive numbers in std as numbers in mean")
        return found

    def write(self, folder: Path) -> None:
        """Write the statistics into a model folder."""
        held = {
            "mean": [round(value, 5) for value in self.mean.tolist()],
            "std": [round(value, 5) for value in self.std.tolist()],
            "limit": round(self.limit, 3),
        }
        with atomic_write(folder / FILE) as part:
            part.write_text(json.dumps(held) + "\n", encoding="utf-8")

    def distance(self, tokens: Float[Tensor, "m e"]) -> float:
        """How many standard deviations an image is from the training images (root mean square)."""
        off = (summarise(tokens) - self.mean) / self.std
        return float(off.square().mean().sqrt())


def unfamiliar(
    known: Familiarity | None, sample: Sample, image_cache: ImageCache
) -> tuple[int, ...]:
    """Return the numbers of the images of ``sample`` that are unlike the training images.

    Images whose visual tokens are not kept in ``image_cache``, and all images if ``known`` is ``None``,
    are not judged.
    """
    if known is None:
        return ()
    found = []
    pixels = split_pixels(sample.pixels, sample.plans)
    for number, (views, plan) in enumerate(zip(pixels, sample.plans, strict=True)):
        tokens = image_cache.peek(digest(views, plan))
        if tokens is not None and known.distance(tokens) > known.limit:
            found.append(number)
    return tuple(found)


def summarise(tokens: Float[Tensor, "m e"]) -> Float[Tensor, " d"]:
    """The mean and the standard deviation of the visual tokens of an image."""
    values = tokens.detach().float().cpu()
    return torch.cat([values.mean(0), values.std(0, correction=0)])
