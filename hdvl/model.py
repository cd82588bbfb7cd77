"""The vision-language model, composed of six interchangeable parts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from hdvl.decoding import generate
from hdvl.encoders.chunk import encode_in_chunks
from hdvl.loss import IGNORED as IGNORED
from hdvl.loss import summed_loss, supervised, targets, token_weights
from hdvl.probe import (
    check_layouts,
    check_members,
    check_token_order,
    fitted_tiler,
    from_factory,
    probe_bridge,
    probe_encoder,
    trial_plans,
)
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
from hdvl.views import blank_pixels, groups, size_of, split_pixels


class VLM(nn.Module):
    """A vision-language model composed of a tiler, encoder, bridge, merger, LLM and template.

    The bridge and the merger are passed as factories, because their dimensions follow from the encoder
    and the LLM. Each visual token of an image takes one position of ``input_ids``, an image slot, which
    holds ``image_token_id``.

    Args:
        tiler: cuts images into tiles.
        encoder: computes the features of each tile.
        bridge: builds the module that maps encoder features to LLM embeddings.
        merger: builds the module that orders the tokens of an image's tiles.
        llm: the language model, with its tokenizer.
        template: writes conversations as text.
        encode_chunk: the most tiles that the encoder takes in one call; all of them if ``None``.
        image_token_id: the id of image slots. If ``None``, the template's tokens are added to the
            tokenizer and to the embedding layers (without a tokenizer the id is -1). If given, as for
            models with a published vocabulary, no embedding layer is resized, and the id may lie outside
            of the vocabulary.

    Raises:
        ValueError: ``encode_chunk`` is below 1, two parts do not fit together, or the published
            vocabulary lacks tokens of the template.
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
        check_members(encoder, Encoder, "encoder")
        probe_encoder(encoder)
        self.template, self.encode_chunk = template, encode_chunk
        self.encoder, self.llm = encoder, llm
        self.bridge = from_factory(
            "bridge", bridge, in_width=encoder.width, out_width=llm.width, grid=encoder.grid
        )
        check_members(self.bridge, Bridge, "bridge")
        probe_bridge(self.bridge, encoder, llm.width)
        self.tiler = fitted_tiler(tiler, encoder, self.bridge)
        self.merger = from_factory(
            "merger",
            merger,
            grid=encoder.grid,
            grid_for=encoder.grid_for,
            out_grid=self.bridge.grid_for,
            width=llm.width,
        )
        check_members(self.merger, Merger, "merger")
        check_token_order(self.bridge, self.merger)
        check_layouts(trial_plans(self.tiler), self.merger)
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
        """Compute the logits and, if labels are given, the loss.

        Args:
            input_ids: token ids (b, s), with ``image_token_id`` in the image slots.
            pixels: the views of all images, in the order of ``plans``.
            plans: how each image was cut, in the order in which the images appear in the batch.
            attention_mask: 1 for tokens and 0 for padding, (b, s); if ``cache`` is given, also for the
                positions that it holds.
            labels: the ids to predict, (b, s); -100 where a position is not supervised.
            segments: the lengths of the documents packed into one row. A segment of several lengths
                holds the length of a shared prefix and those of the documents that continue it.
            weights: the weight of each position's target, (b, s), see :mod:`hdvl.loss`.
            all_logits: if false and labels are given, compute only the logits of the positions whose
                next token is supervised, in their order.
            feature_cache: encoder features of images encoded earlier.
            cache: the keys and values of tokens read earlier, from ``llm.new_cache()``; ``input_ids``
                continue them.

        Returns:
            The logits, the visual tokens of each image, and the loss: the mean cross-entropy over the
            supervised positions, or with ``weights`` the weighted sum.
        """
        target_ids = None if labels is None else targets(labels, segments)
        kept = None if target_ids is None or all_logits else supervised(target_ids)
        visual = self.encode_images(pixels, plans, feature_cache)
        embeddings = self.merge_image_tokens(input_ids, visual)
        embeddings = self.add_zero_gradients(embeddings, bool(visual), feature_cache)
        logits = self.llm(
            embeddings, attention_mask, logits_to_keep=kept, segments=segments, cache=cache
        )
        loss = None if target_ids is None else _loss(logits, target_ids, weights, kept)
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
        """Generate an answer to each prompt and return the new ids, without those of the prompt.

        Args:
            input_ids: token ids of the prompts (b, s), with ``image_token_id`` in the image slots.
            pixels: the views of all images, in the order of ``plans``.
            plans: how each image was cut, in the order in which the images appear in the batch.
            attention_mask: 1 for tokens and 0 for padding, (b, s).
            feature_cache: encoder features of images encoded earlier.
            **options: see :func:`hdvl.decoding.generate` (``max_new_tokens``, ``do_sample``, ...).
        """
        visual = self.encode_images(pixels, plans, feature_cache)
        embeddings = self.merge_image_tokens(input_ids, visual)
        return generate(self.llm, embeddings, attention_mask, **options)

    def encode_images(
        self,
        pixels: Pixels,
        plans: Sequence[TilePlan],
        cache: FeatureCache | None = None,
    ) -> list[Float[Tensor, "_m e"]]:
        """Return the visual tokens of each image, as the LLM reads them.

        Args:
            pixels: the views of all images, in the order of ``plans``.
            plans: how each image was cut.
            cache: encoder features of images encoded earlier; only images that it does not hold are
                encoded.
        """
        images = split_pixels(pixels, plans)
        if not images:
            return []
        parts = [group for image in images for group in groups(image)]
        encode = self._encode_each
        features = encode(parts) if cache is None else cache.features(parts, encode)
        remaining = iter(features)
        stitched = [
            self.merger.stitch(self._in_order([next(remaining) for _ in groups(image)], plan), plan)
            for image, plan in zip(images, plans, strict=True)
        ]
        bridged = self._bridge_all([piece for maps in stitched for piece in maps])
        tokens = []
        for maps, plan in zip(stitched, plans, strict=True):
            image_maps, bridged = bridged[: len(maps)], bridged[len(maps) :]
            tokens.append(self.merger.arrange(image_maps, plan))  # m e
        return tokens

    def _encode_each(
        self, parts: Sequence[UInt8[Tensor, "_t c _h _w"]]
    ) -> list[Float[Tensor, "_t _n d"]]:
        """Encode each tensor of views; tensors whose views have the same size go in one batch."""
        features: dict[int, Tensor] = {}
        for size in dict.fromkeys(map(size_of, parts)):
            places = [index for index, part in enumerate(parts) if size_of(part) == size]
            pixels = torch.cat([parts[index] for index in places])
            encoded = encode_in_chunks(self.encoder, pixels, chunk=self.encode_chunk)  # t n d
            lengths = [len(parts[index]) for index in places]
            features |= zip(places, torch.split(encoded, lengths), strict=True)
        return [features[index] for index in range(len(parts))]

    def _in_order(self, features: Sequence[Float[Tensor, "_t _n d"]], plan: TilePlan) -> Features:
        """Put the features of one image in the order of its views.

        Args:
            features: the features of the views of each size.
            plan: how the image was cut.

        Returns:
            One tensor if all views have the same size, otherwise one feature map for each view.
        """
        if len(features) == 1:
            return features[0]
        sizes = dict(zip(dict.fromkeys(plan.sizes), map(iter, features), strict=True))
        return [
            FeatureMap(next(sizes[size])[None], self.encoder.grid_for(size)) for size in plan.sizes
        ]

    def _bridge_all(self, maps: list[FeatureMap]) -> list[FeatureMap]:
        """Apply the bridge to each map; maps of the same grid go in one batch."""
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
        """Embed the text and put the visual tokens into the image slots.

        Args:
            input_ids: token ids (b, s), with ``image_token_id`` in the image slots.
            visual: the visual tokens (m, e) of each image, in order of appearance.

        Raises:
            ValueError: the number of image slots differs from that of the visual tokens.
        """
        slots = input_ids == self.image_token_id
        token_total, slot_total = sum(len(tokens) for tokens in visual), int(slots.sum())
        if token_total != slot_total:
            raise ValueError(
                f"input_ids hold {slot_total} image slots (id {self.image_token_id}), the images give "
                f"{token_total} visual tokens; make both with the same processor"
            )
        # The id of image slots may lie outside of the embedding layer, so they embed id 0 for now.
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
        """Connect every trainable parameter to the loss, with a gradient of zero where it is not used.

        Ranks wait for each other's gradients in distributed training, and would hang if a rank had none
        for some parameter. A batch without images therefore sends a blank tile through the encoder, the
        bridge and the merger. They are in evaluation mode meanwhile, so that the blank tile neither
        changes running statistics nor draws random numbers.

        Args:
            embeddings: the embeddings that the LLM will read (b, s, e); their values do not change.
            has_images: whether the batch has images.
            cache: encoder features of images encoded earlier.
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
    """Return the id of image slots, after registering the template's tokens with the tokenizer."""
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
            "not; use the template or the tokenizer that belongs to the model"
        )
    return given


@contextmanager
def _evaluating(*parts: nn.Module) -> Iterator[None]:
    """Put ``parts`` into evaluation mode, and restore the mode of each module on exit."""
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
    target_ids: Int[Tensor, "b s"],
    weights: Float[Tensor, "b s"] | None,
    logits_to_keep: Int[Tensor, " k"] | None,
) -> Float[Tensor, ""]:
    """Return the weighted sum of the cross-entropies or, without ``weights``, their mean."""
    factors = token_weights(target_ids, None, "token") if weights is None else weights
    if logits_to_keep is not None:
        target_ids, factors = target_ids[:, logits_to_keep], factors[:, logits_to_keep]
    loss = summed_loss(logits, target_ids, factors)
    return loss if weights is not None else loss / factors.sum().clamp(min=1)
