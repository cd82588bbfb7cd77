"""The model: holds the parts, and lets them speak in turn."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from hdvl.encoders.chunk import encode_in_chunks
from hdvl.probe import probe_encoder
from hdvl.protocols import (
    LLM,
    Bridge,
    BridgeFactory,
    Encoder,
    FeatureMap,
    Merger,
    MergerFactory,
    Template,
    TilePlan,
    Tiler,
    VLMOutput,
)

IGNORED = -100
"""Label of a position that is not supervised."""


class VLM(nn.Module):
    """A vision-language model composed of a tiler, encoder, bridge, merger, LLM and template.

    The bridge and the merger arrive as factories: their dimensions are what the encoder and the LLM
    say. Image slots in ``input_ids`` hold ``image_token_id``, one per visual token.
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
    ) -> None:
        super().__init__()
        if encode_chunk is not None and encode_chunk < 1:
            raise ValueError(f"encode_chunk must be at least 1 or null, got {encode_chunk}")
        if tiler.tile_size != encoder.tile_size:
            raise ValueError(
                f"tiler.tile_size={tiler.tile_size} must equal the encoder's tile_size="
                f"{encoder.tile_size}; set tiler.tile_size={encoder.tile_size} or encoder.tile_size"
            )
        probe_encoder(encoder)
        self.tiler, self.template, self.encode_chunk = tiler, template, encode_chunk
        self.encoder, self.llm = encoder, llm
        self.bridge = bridge(in_width=encoder.width, out_width=llm.width, grid=encoder.grid)
        self.merger = merger(grid=encoder.grid, out_grid=self.bridge.grid_for, width=llm.width)
        llm.add_tokens([template.image_token, *template.special_tokens])
        self.image_token_id = int(llm.tokenizer.convert_tokens_to_ids(template.image_token))

    def forward(
        self,
        input_ids: Int[Tensor, "b s"],
        pixels: UInt8[Tensor, "t c h w"],
        plans: Sequence[TilePlan],
        attention_mask: Int[Tensor, "b s"] | None = None,
        labels: Int[Tensor, "b s"] | None = None,
    ) -> VLMOutput:
        """Logits for every position; ``plans`` are the pictures in order of appearance.

        ``loss`` is the mean cross-entropy over the positions whose label is not -100.
        """
        visual = self.see(pixels, plans)
        logits = self.llm(self.place(input_ids, visual), attention_mask)
        loss = None if labels is None else next_token_loss(logits, labels)
        return VLMOutput(logits=logits, loss=loss, visual_tokens=visual)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Int[Tensor, "b s"],
        pixels: UInt8[Tensor, "t c h w"],
        plans: Sequence[TilePlan],
        attention_mask: Int[Tensor, "b s"] | None = None,
        **options: Any,
    ) -> Int[Tensor, "b new"]:
        """New ids only. ``options`` go to ``LLM.generate``: max_new_tokens, do_sample, streamer, ..."""
        embeddings = self.place(input_ids, self.see(pixels, plans))
        return self.llm.generate(embeddings, attention_mask, **options)

    def see(
        self, pixels: UInt8[Tensor, "t c h w"], plans: Sequence[TilePlan]
    ) -> list[Float[Tensor, "_m e"]]:
        """The visual tokens of each picture."""
        counts = [plan.count for plan in plans]
        if pixels.shape[0] != sum(counts):
            raise ValueError(f"plans ask for {sum(counts)} tiles, pixels hold {pixels.shape[0]}")
        if not counts:
            return []
        features = encode_in_chunks(self.encoder, pixels, self.encode_chunk)  # t n d
        stitched = [
            self.merger.stitch(part, plan)
            for part, plan in zip(torch.split(features, counts), plans, strict=True)
        ]
        bridged = self._bridge_all([piece for maps in stitched for piece in maps])
        tokens = []
        for maps, plan in zip(stitched, plans, strict=True):
            own, bridged = bridged[: len(maps)], bridged[len(maps) :]
            tokens.append(self.merger.arrange(own, plan))  # m e
        return tokens

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

    def place(
        self, input_ids: Int[Tensor, "b s"], visual: list[Float[Tensor, "_m e"]]
    ) -> Float[Tensor, "b s e"]:
        """Text embeddings with the visual tokens in the image slots."""
        slots = input_ids == self.image_token_id
        given, wanted = sum(len(tokens) for tokens in visual), int(slots.sum())
        if given != wanted:
            raise ValueError(
                f"input_ids hold {wanted} image slots (id {self.image_token_id}), the pictures give "
                f"{given} visual tokens; make both with the same processor"
            )
        embeddings = self.llm.embed(input_ids)  # b s e
        if not visual:
            return embeddings
        tokens = torch.cat(visual).to(embeddings.dtype)
        return embeddings.masked_scatter(rearrange(slots, "b s -> b s 1"), tokens)


def next_token_loss(
    logits: Float[Tensor, "b s v"], labels: Int[Tensor, "b s"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy (fp32) of each supervised label given what stands before it.

    Without any supervised position the loss is 0 and carries a gradient of 0, never NaN.
    """
    predicted, wanted = logits[:, :-1], labels[:, 1:]
    kept = wanted != IGNORED
    losses = functional.cross_entropy(predicted[kept].float(), wanted[kept], reduction="sum")
    return losses / kept.sum().clamp(min=1)
