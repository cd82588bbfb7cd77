"""The model: holds the parts, and lets them speak in turn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from hdvl.encoders.chunk import encode_in_chunks
from hdvl.loss import IGNORED as IGNORED
from hdvl.loss import summed_loss, supervised, targets, token_weights
from hdvl.probe import check_token_order, probe_encoder
from hdvl.protocols import (
    LLM,
    Bridge,
    BridgeFactory,
    Cache,
    Encoder,
    FeatureCache,
    FeatureMap,
    Features,
    Merger,
    MergerFactory,
    Pixels,
    Segment,
    Template,
    TilePlan,
    Tiler,
    VLMOutput,
)
from hdvl.tilers.base import with_encoder
from hdvl.views import blank_pixels, check_views, groups, size_of, split_pixels


class VLM(nn.Module):
    """A vision-language model composed of a tiler, encoder, bridge, merger, LLM and template.

    The bridge and the merger arrive as factories: their dimensions are what the encoder and the LLM
    say. Image slots in ``input_ids`` hold ``image_token_id``, one per visual token.

    Without an ``image_token_id`` the template's tokens become rows of the tables. Published
    vocabularies keep their rows: given a number, no table is resized, and the number need not be in
    them. Without a tokenizer it is -1 unless it is given.
    """

    tiler: Tiler
    encoder: Encoder
    bridge: Bridge
    merger: Merger
    llm: LLM
    template: Template
    encode_chunk: int | None
    image_token_id: int

    def __init__(
        self,
        *,
        tiler: Tiler,
        encoder: Encoder,
        bridge: BridgeFactory,
        merger: MergerFactory,
        llm: LLM,
        template: Template,
        encode_chunk: int | None = None,
        image_token_id: int | None = None,
    ) -> None:
        super().__init__()
        if encode_chunk is not None and encode_chunk < 1:
            raise ValueError(f"encode_chunk must be at least 1 or null, got {encode_chunk}")
        check_views(tiler, encoder)
        probe_encoder(encoder)
        self.tiler = with_encoder(tiler, encoder.mean)
        self.template, self.encode_chunk = template, encode_chunk
        self.encoder, self.llm = encoder, llm
        self.bridge = bridge(in_width=encoder.width, out_width=llm.width, grid=encoder.grid)
        self.merger = merger(
            grid=encoder.grid,
            grid_for=encoder.grid_for,
            out_grid=self.bridge.grid_for,
            width=llm.width,
        )
        check_token_order(self.bridge, self.merger)
        self.image_token_id = _slot_id(llm, template, image_token_id)

    def forward(
        self,
        input_ids: Int[Tensor, "b s"],
        pixels: Pixels,
        plans: Sequence[TilePlan],
        attention_mask: Int[Tensor, "b _p"] | None = None,
        labels: Int[Tensor, "b s"] | None = None,
        *,
        segments: Sequence[Segment] | None = None,
        weights: Float[Tensor, "b s"] | None = None,
        all_logits: bool = True,
        feature_cache: FeatureCache | None = None,
        cache: Cache | None = None,
    ) -> VLMOutput:
        """Logits and loss; ``plans`` are the images in order of appearance.

        ``loss`` is the mean cross-entropy over the positions whose label is not -100; with
        ``weights`` (of the target of each position, see :mod:`hdvl.loss`) their weighted sum.
        ``segments`` are the lengths of the documents packed into one row; in a segment of several
        lengths documents share what they begin with. Without ``all_logits`` the logits are those of
        the positions before a supervised one alone, in their order. ``feature_cache`` holds encoder
        features from before. With a ``cache`` of ``llm.new_cache()`` the ids go on from what it holds,
        and ``attention_mask`` covers that too.
        """
        wanted = None if labels is None else targets(labels, segments)
        some = None if wanted is None or all_logits else supervised(wanted)
        visual = self.encode_images(pixels, plans, feature_cache)
        embeddings = self.merge_image_tokens(input_ids, visual)
        embeddings = self.add_zero_gradients(embeddings, bool(visual), feature_cache)
        logits = self.llm(
            embeddings, attention_mask, logits_to_keep=some, segments=segments, cache=cache
        )
        loss = None if wanted is None else _loss(logits, wanted, weights, some)
        return VLMOutput(logits=logits, loss=loss, visual_tokens=visual)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Int[Tensor, "b s"],
        pixels: Pixels,
        plans: Sequence[TilePlan],
        attention_mask: Int[Tensor, "b s"] | None = None,
        *,
        feature_cache: FeatureCache | None = None,
        **options: Any,
    ) -> Int[Tensor, "b new"]:
        """New ids only. ``options`` go to ``LLM.generate``: max_new_tokens, do_sample, streamer, ..."""
        visual = self.encode_images(pixels, plans, feature_cache)
        embeddings = self.merge_image_tokens(input_ids, visual)
        return self.llm.generate(embeddings, attention_mask, **options)

    def encode_images(
        self,
        pixels: Pixels,
        plans: Sequence[TilePlan],
        cache: FeatureCache | None = None,
    ) -> list[Float[Tensor, "_m e"]]:
        """The visual tokens of each image; ``cache`` is asked for the encoder's features first."""
        images = split_pixels(pixels, plans)
        if not images:
            return []
        parts = [group for image in images for group in groups(image)]
        encode = self._encode_each
        features = encode(parts) if cache is None else cache.features(parts, encode)
        found = iter(features)
        stitched = [
            self.merger.stitch(self._in_order([next(found) for _ in groups(image)], plan), plan)
            for image, plan in zip(images, plans, strict=True)
        ]
        bridged = self._bridge_all([piece for maps in stitched for piece in maps])
        tokens = []
        for maps, plan in zip(stitched, plans, strict=True):
            own, bridged = bridged[: len(maps)], bridged[len(maps) :]
            tokens.append(self.merger.arrange(own, plan))  # m e
        return tokens

    def _encode_each(
        self, parts: Sequence[UInt8[Tensor, "_t c _h _w"]]
    ) -> list[Float[Tensor, "_t _n d"]]:
        """The encoder's features of each tensor of views; all views of one size are encoded together."""
        features: dict[int, Tensor] = {}
        for size in dict.fromkeys(map(size_of, parts)):
            places = [index for index, part in enumerate(parts) if size_of(part) == size]
            pixels = torch.cat([parts[index] for index in places])
            encoded = encode_in_chunks(self.encoder, pixels, chunk=self.encode_chunk)  # t n d
            lengths = [len(parts[index]) for index in places]
            features |= zip(places, torch.split(encoded, lengths), strict=True)
        return [features[index] for index in range(len(parts))]

    def _in_order(self, features: Sequence[Float[Tensor, "_t _n d"]], plan: TilePlan) -> Features:
        """An image's features of each size as one tensor or, of several sizes, as a map of each view."""
        if len(features) == 1:
            return features[0]
        sizes = dict(zip(dict.fromkeys(plan.sizes), map(iter, features), strict=True))
        return [
            FeatureMap(next(sizes[size])[None], self.encoder.grid_for(size)) for size in plan.sizes
        ]

    def _bridge_all(self, maps: list[FeatureMap]) -> list[FeatureMap]:
        """Maps of one grid cross the bridge together, in one batch."""
        bridged: dict[int, FeatureMap] = {}
        for grid in dict.fromkeys(piece.grid for piece in maps):
            places = [index for index, piece in enumerate(maps) if piece.grid == grid]
            values = self.bridge(torch.cat([maps[index].values for index in places]), grid)
            sizes = [maps[index].values.shape[0] for index in places]
            for index, value in zip(places, torch.split(values, sizes), strict=True):
                bridged[index] = FeatureMap(value, self.bridge.grid_for(grid))
        return [bridged[index] for index in range(len(maps))]

    def merge_image_tokens(
        self, input_ids: Int[Tensor, "b s"], visual: list[Float[Tensor, "_m e"]]
    ) -> Float[Tensor, "b s e"]:
        """Text embeddings with the visual tokens in the image slots."""
        slots = input_ids == self.image_token_id
        given, wanted = sum(len(tokens) for tokens in visual), int(slots.sum())
        if given != wanted:
            raise ValueError(
                f"input_ids hold {wanted} image slots (id {self.image_token_id}), the images give "
                f"{given} visual tokens; make both with the same processor"
            )
        # Slots are filled below; their id may be outside the table.
        embeddings = self.llm.embed(input_ids.masked_fill(slots, 0))  # b s e
        if not visual:
            return embeddings
        tokens = torch.cat(visual).to(embeddings.dtype)
        return embeddings.masked_scatter(rearrange(slots, "b s -> b s 1"), tokens)

    def add_zero_gradients(
        self,
        embeddings: Float[Tensor, "b s e"],
        has_images: bool,
        cache: FeatureCache | None = None,
    ) -> Float[Tensor, "b s e"]:
        """Wherever gradients are made every trainable parameter has one, of zero if no image uses
        it: ranks that wait for each other's gradients then never hang.

        A step of text alone sends a blank tile through the parts. They are in evaluation mode for
        it: it leaves no trace in statistics and draws no random numbers.
        """
        if not torch.is_grad_enabled():
            return embeddings
        parts = {name: part for name, part in self.named_children() if name != "llm"}
        merger = parts["merger"].parameters() if "merger" in parts else ()
        used = [parameter.sum() for parameter in merger if parameter.requires_grad]
        if not has_images:
            size = self.tiler.tile_size
            plan = self.tiler.plan(size, size)
            blank = blank_pixels(plan, embeddings.device)
            with _evaluating(*parts.values()):
                used += [tokens.sum() for tokens in self.encode_images(blank, [plan], cache)]
        return embeddings + 0 * sum(used) if used else embeddings


def _slot_id(llm: LLM, template: Template, given: int | None) -> int:
    """The id of image slots, after the template's tokens have been made known."""
    if llm.tokenizer is None:
        return -1 if given is None else given
    if given is None:
        llm.add_tokens([template.image_token, *template.special_tokens])
        return int(llm.tokenizer.convert_tokens_to_ids(template.image_token))
    llm.register_image_token(template.image_token, given)
    unknown = sorted(set(template.special_tokens) - set(llm.tokenizer.get_vocab()))
    if unknown:
        raise ValueError(
            f"tokens of the template must be in the published vocabulary, {', '.join(unknown)} are "
            "not; give the template or the tokenizer that belongs to the model"
        )
    return given


@contextmanager
def _evaluating(*parts: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then each module's mode as it was."""
    modes = [(module, module.training) for part in parts for module in part.modules()]
    try:
        for part in parts:
            part.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _loss(
    logits: Float[Tensor, "b k v"],
    wanted: Int[Tensor, "b s"],
    weights: Float[Tensor, "b s"] | None,
    logits_to_keep: Int[Tensor, " k"] | None,
) -> Float[Tensor, ""]:
    given = token_weights(wanted, None, "token") if weights is None else weights
    if logits_to_keep is not None:
        wanted, given = wanted[:, logits_to_keep], given[:, logits_to_keep]
    loss = summed_loss(logits, wanted, given)
    return loss if weights is not None else loss / given.sum().clamp(min=1)
