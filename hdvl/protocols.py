"""Protocols of the parts of a model, and the values that they exchange.

Of hdvl it imports only ``geometry`` and ``conversation``, whose names are here too, and ``drawing``.

Axis letters, the same in every file::

    b  samples in a batch          t  tiles (of all images, flat)     c h w  pixels of a tile
    n  tokens per tile             m  tokens after the bridge           d      encoder width
    e  LLM width                   s  text length                       v      vocabulary

An image flows through the parts like this::

    image --Tiler--> Tiles --Encoder--> t n d --Merger.stitch--> maps
                       maps --Bridge--> maps --Merger.arrange--> m e
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn

from hdvl.conversation import Conversation as Conversation
from hdvl.conversation import Decoded as Decoded
from hdvl.conversation import GroundedBox as GroundedBox
from hdvl.conversation import Message as Message
from hdvl.conversation import Rendered as Rendered
from hdvl.conversation import Segment as Segment
from hdvl.conversation import SharedPrefix as SharedPrefix
from hdvl.conversation import first_of as first_of
from hdvl.conversation import lengths_of as lengths_of
from hdvl.drawing import DrawableTiles
from hdvl.geometry import Box as Box
from hdvl.geometry import Grid as Grid
from hdvl.geometry import Layout as Layout
from hdvl.geometry import Rect as Rect
from hdvl.geometry import Size as Size
from hdvl.geometry import Thumbnail as Thumbnail
from hdvl.geometry import TilePlan as TilePlan
from hdvl.geometry import View as View
from hdvl.geometry import token_count as token_count

Pixels = UInt8[Tensor, "_t c _h _w"] | tuple[UInt8[Tensor, "_t c _h _w"], ...]
"""The pixels of views: one tensor if all views have the same size, otherwise one tensor for each size.

Views of the same size keep their order. The plans hold the size of each view (:mod:`hdvl.views`)."""


@dataclass(frozen=True)
class Tiles(DrawableTiles):
    """The pixels of the views of one image, and the plan by which they were cut."""

    pixels: Pixels
    plan: TilePlan


@dataclass(frozen=True)
class FeatureMap:
    """Features of ``t`` maps of the same grid.

    Attributes:
        values: features (t, n, d) in raster order, n = rows * cols.
        grid: (rows, cols) of each map.
    """

    values: Float[Tensor, "t n d"]
    grid: Grid

    def __post_init__(self) -> None:
        if self.values.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"feature map must hold rows*cols={self.grid[0] * self.grid[1]} positions, "
                f"got {self.values.shape[1]}"
            )


Features = Float[Tensor, "t n d"] | list[FeatureMap]
"""The features of one image: a tensor if all views have the same size, otherwise one map for each view."""


@dataclass(frozen=True)
class VLMOutput:
    """The output of ``VLM.forward``.

    Attributes:
        logits: (b, s, v), or those of the supervised positions only.
        loss: the loss, if labels were given.
        visual_tokens: the visual tokens (m, e) of each image, as the LLM read them.
    """

    logits: Float[Tensor, "b s v"]
    loss: Float[Tensor, ""] | None
    visual_tokens: list[Float[Tensor, "_m e"]]


@runtime_checkable
class Tiler(Protocol):
    """Cuts an image into tiles.

    A tiler is immutable, so that it can be shared and sent to data workers. ``plan`` returns how an image
    of a given size is cut without reading its pixels.
    """

    @property
    def tile_size(self) -> int: ...
    @property
    def max_tiles(self) -> int: ...
    @property
    def exif(self) -> bool: ...
    def plan(self, width: int, height: int) -> TilePlan: ...
    def __call__(self, image: Any) -> Tiles: ...


@runtime_checkable
class TilerByCount(Tiler, Protocol):
    """Tiler that cuts images differently if a conversation has several of them."""

    def for_images(self, count: int) -> Tiler: ...


def tiler_for(tiler: Tiler, count: int) -> Tiler:
    """Return the tiler for each image of a conversation with ``count`` images."""
    return tiler.for_images(count) if isinstance(tiler, TilerByCount) else tiler


@runtime_checkable
class Encoder(Protocol):
    """Computes patch features of images, in raster order and without prefix tokens.

    ``grid_for`` returns the grid of features for images of ``size`` = (width, height) pixels. It raises
    a ``ValueError`` that names the supported sizes if the encoder does not support ``size``. ``grid`` is
    that of a tile, ``tile_size`` pixels square. All images of one call have the same size.

    uint8 pixels are normalised by the encoder (divided by 255, then ``mean`` and ``std``); float pixels
    are expected to be normalised.

    The order of the features is checked when a model is built. An encoder whose features are maps of
    convolutions sets ``from_maps = True`` to skip this check, because the receptive fields of
    convolutions need not be centred at their positions.
    """

    @property
    def width(self) -> int: ...
    @property
    def tile_size(self) -> int: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    def grid_for(self, size: Size) -> Grid: ...
    def forward(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]: ...
    def __call__(self, pixels: Shaped[Tensor, "t c h w"]) -> Float[Tensor, "t n d"]: ...


EncodeImages = Callable[[Sequence[UInt8[Tensor, "_t c _h _w"]]], list[Float[Tensor, "_t _n d"]]]
"""Function from views (t, c, h, w) of equal size to the encoder's features (t, n, d), for several tensors.

An image whose views have several sizes has one tensor for each size.
"""


@runtime_checkable
class FeatureCache(Protocol):
    """Keeps encoder features of images, so that an image that is used again is not encoded again.

    ``features`` returns the features of every image of ``images``; it calls ``encode`` with those images
    that are not in the cache.
    """

    def features(
        self, images: Sequence[UInt8[Tensor, "_t c _h _w"]], encode: EncodeImages
    ) -> list[Float[Tensor, "_t _n d"]]: ...


@runtime_checkable
class Bridge(Protocol):
    """Maps encoder features to LLM embeddings.

    ``grid_for`` returns the grid of tokens for a grid of features, and ``out_grid`` that of a tile.
    ``grid`` of ``forward`` is the grid of the features, that of a tile unless given. Tokens are in
    raster order; a bridge with another order sets ``raster_order = False``. A bridge whose tokens attend
    to the whole view, and so have no place in it, sets ``has_places = False``.
    """

    @property
    def out_grid(self) -> Grid: ...
    def grid_for(self, grid: Grid) -> Grid: ...
    def forward(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]: ...
    def __call__(
        self, features: Float[Tensor, "t n d"], grid: Grid | None = None
    ) -> Float[Tensor, "t m e"]: ...


@runtime_checkable
class BridgeFactory(Protocol):
    """Builds a bridge, given the dimensions of the encoder and the LLM.

    Args:
        in_width: width of the encoder's features.
        out_width: width of the LLM's embeddings.
        grid: (rows, cols) of the encoder's features of a tile.
    """

    def __call__(self, *, in_width: int, out_width: int, grid: Grid) -> Bridge: ...


@runtime_checkable
class Merger(Protocol):
    """Combines the views of one image: ``stitch`` before the bridge, ``arrange`` after it.

    ``layout`` returns what the prompt holds for an image: pieces of text, and between them numbers of
    visual tokens, in the order in which ``arrange`` returns the tokens. ``token_count`` is the sum of
    these numbers. No other code computes the number of visual tokens of an image.

    A merger that does not depend on the order of the tokens within a tile sets
    ``any_token_order = True``; all others are combined only with bridges in raster order.
    """

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]: ...
    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]: ...
    def layout(self, plan: TilePlan) -> Layout: ...
    def token_count(self, plan: TilePlan) -> int: ...


@runtime_checkable
class PlacedMerger(Merger, Protocol):
    """Merger that knows where in the source image each visual token is.

    ``places`` returns a rectangle in pixels of the source image for each token, in the order in which
    ``arrange`` returns them; parts outside of the image are padding. It is ``None`` for tokens such as
    newlines.
    """

    def places(self, plan: TilePlan) -> tuple[Box | None, ...]: ...


@runtime_checkable
class MergerFactory(Protocol):
    """Builds a merger, given the dimensions of the encoder, the bridge and the LLM.

    Args:
        grid: (rows, cols) of the encoder's features of a tile.
        grid_for: returns the encoder's grid for a view of a given size.
        out_grid: returns the bridge's grid of tokens for a grid of features.
        width: width of the LLM's embeddings.
    """

    def __call__(
        self,
        *,
        grid: Grid,
        grid_for: Callable[[Size], Grid],
        out_grid: Callable[[Grid], Grid],
        width: int,
    ) -> Merger: ...


@runtime_checkable
class Cache(Protocol):
    """The keys and values of the tokens that a language model has read, with the interface of transformers.

    ``LLM.new_cache`` returns an empty cache and ``LLM.forward`` fills it. ``get_seq_length`` returns the
    number of positions in it, padding included. ``reorder_cache`` selects the rows of the batch by index,
    in the given order; an index may occur several times.
    """

    def get_seq_length(self) -> int: ...
    def reorder_cache(self, indices: Int[Tensor, " rows"], /) -> None: ...


@runtime_checkable
class LLM(Protocol):
    """Causal language model with its tokenizer. An implementation is an ``nn.Module``.

    ``forward`` computes logits (b, s, v) from embeddings (b, s, e).

    * ``logits_to_keep``: the positions whose logits are computed; all positions if ``None``.
    * ``segments``: the lengths of the documents packed into one row, which must not attend to each other
      (documents of one segment share a prefix). A class that does not support packing raises a
      ``ValueError`` with the reason.
    * ``cache``: the keys and values of earlier tokens. The embeddings continue them and are added to the
      cache, and ``attention_mask`` covers the positions in the cache too. A prompt may be read in several
      calls.

    The other members:

    * ``tokenizer``: the tokenizer, or ``None``.
    * ``new_ids``: the ids that ``add_tokens`` added.
    * ``stop_ids``: the ids that end an answer if a call gives none. May be empty; the tokenizer's
      end-of-sequence id is used then.
    * ``context``: the most ids that the model can read; ``None`` for no limit.
    * ``embedding_layers``: the input embedding and, if the model has one, the output head. Both have one
      row for each id, and may share their weight.
    * ``backbone``: the submodule by which ``forward`` computes hidden states from embeddings. Low-rank
      adapters, compilation and sharding are applied to it.
    * ``new_cache``: returns an empty cache. ``prompt_lengths`` are the lengths of the complete prompts if
      these are read in several calls; some models compute other logits for other lengths of the prompt.
    * ``config_node``: returns the plain ``_target_`` node that builds a model of the same shape without
      reading weights. The node has no ``tokenizer``, which its target takes as an argument.
    """

    tokenizer: Any

    @property
    def width(self) -> int: ...
    @property
    def stop_ids(self) -> tuple[int, ...]: ...
    @property
    def context(self) -> int | None: ...
    @property
    def new_ids(self) -> tuple[int, ...]: ...
    @property
    def backbone(self) -> nn.Module: ...
    def add_tokens(self, tokens: Sequence[str]) -> int: ...
    def register_image_token(self, token: str, token_id: int) -> None: ...
    def embedding_layers(self) -> list[Any]: ...
    def config_node(self) -> dict[str, Any]: ...
    def embed(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s e"]: ...
    def new_cache(self, prompt_lengths: Sequence[int] | None = None) -> Cache: ...
    def forward(
        self,
        embeddings: Float[Tensor, "b s e"],
        attention_mask: Int[Tensor, "b _p"] | Bool[Tensor, "b _p"] | None = None,
        position_ids: Int[Tensor, "b s"] | None = None,
        *,
        logits_to_keep: Int[Tensor, " k"] | None = None,
        segments: Sequence[Segment] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b _k v"]: ...
    def __call__(
        self,
        embeddings: Float[Tensor, "b s e"],
        attention_mask: Int[Tensor, "b _p"] | Bool[Tensor, "b _p"] | None = None,
        position_ids: Int[Tensor, "b s"] | None = None,
        *,
        logits_to_keep: Int[Tensor, " k"] | None = None,
        segments: Sequence[Segment] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b _k v"]: ...


@runtime_checkable
class BoxCodec(Protocol):
    """Writes boxes as text and parses them from text. Boxes are in pixels of the source image.

    ``tokens`` are the tags that the tokenizer should know as tokens of their own.
    """

    @property
    def tokens(self) -> tuple[str, ...]: ...
    def encode(self, box: Box, width: int, height: int, *, label: str = "") -> str: ...
    def decode(self, text: str, sizes: Sequence[tuple[int, int]]) -> list[GroundedBox]: ...
    def decode_with_errors(self, text: str, sizes: Sequence[tuple[int, int]]) -> Decoded: ...


@runtime_checkable
class Template(Protocol):
    """Writes a conversation as the text that the LLM was trained on.

    A template handles text only; :mod:`hdvl.templates.encode` computes the ids.

    * ``image_token``: the token in the image slots.
    * ``special_tokens``: the other tokens of the template that the tokenizer must know.
    * ``stop``: the strings that end an answer.
    * ``boxes``: how boxes are written.
    * ``render``: returns the text of a conversation.
    * ``recent``: returns the messages that fit into the template's window, given a function that returns
      the number of ids of a rendered conversation.
    """

    @property
    def image_token(self) -> str: ...
    @property
    def special_tokens(self) -> tuple[str, ...]: ...
    @property
    def stop(self) -> tuple[str, ...]: ...
    @property
    def boxes(self) -> BoxCodec: ...
    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Rendered: ...
    def recent(
        self,
        messages: Sequence[Message],
        length: Callable[[Rendered, Sequence[Message]], int],
    ) -> Sequence[Message]: ...


@runtime_checkable
class TokenStream(Protocol):
    """Text pieces as they are generated."""

    def __iter__(self) -> Iterator[str]: ...
