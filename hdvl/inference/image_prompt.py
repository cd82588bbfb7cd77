"""A prompt with images, for the scheduler."""

from collections.abc import Sequence
from itertools import accumulate

from jaxtyping import Float, Int
from torch import Tensor

from hdvl.decoding.prefix_cache import Keys
from hdvl.inference.image_cache import CachedImage, ImageCache, digest, prompt_keys
from hdvl.model import VLM
from hdvl.protocols import FeatureCache, Pixels, TilePlan
from hdvl.views import split_pixels


class ImagePrompt:
    """The ids of a prompt and its images, which are hashed at once and encoded when they are needed.

    Args:
        vlm: the model.
        ids: the prompt (s,), with the image token in the image slots.
        pixels: the views of all images.
        plans: how each image was cut, in order of appearance.
        image_cache: the cache of visual tokens.
        features: cache of encoder features, for images that are not in ``image_cache``.

    Attributes:
        counts: the number of visual tokens of each image.
        keys: the keys of the positions in the prefix cache.

    Raises:
        ValueError: the number of image slots differs from that of the visual tokens.
    """

    def __init__(
        self,
        vlm: VLM,
        ids: Int[Tensor, " s"],
        pixels: Pixels,
        plans: Sequence[TilePlan],
        image_cache: ImageCache,
        features: FeatureCache | None,
    ) -> None:
        self._vlm, self._ids = vlm, ids
        self._image_cache, self._features = image_cache, features
        self._images: list[CachedImage] = [
            (digest(own, plan), own, plan)
            for own, plan in zip(split_pixels(pixels, plans), plans, strict=True)
        ]
        self.counts = [vlm.merger.token_count(plan) for plan in plans]
        slots = int((ids == vlm.image_token_id).sum())
        if slots != sum(self.counts):
            raise ValueError(
                f"input_ids hold {slots} image slots (id {vlm.image_token_id}), the images give "
                f"{sum(self.counts)} visual tokens; make both with the same processor"
            )
        self.keys: Keys = prompt_keys(
            ids,
            vlm.image_token_id,
            [(key, count) for (key, _, _), count in zip(self._images, self.counts, strict=True)],
        )

    @property
    def length(self) -> int:
        """The number of ids."""
        return len(self._ids)

    def embeddings(self, start: int) -> Float[Tensor, "s e"]:
        """Return the embeddings from ``start`` on; images before it are not encoded."""
        vlm = self._vlm
        before = int((self._ids[:start] == vlm.image_token_id).sum())
        ends = list(accumulate(self.counts))
        first = sum(end <= before for end in ends)
        visual: list[Tensor] = []
        if first < len(ends):
            visual = self._image_cache.tokens(vlm, self._images[first:], self._features)
            visual[0] = visual[0][before - (ends[first] - self.counts[first]) :]
        ids = self._ids[start:].to(vlm.llm.embedding_layers()[0].weight.device)
        return vlm.merge_image_tokens(ids[None], visual)[0]
