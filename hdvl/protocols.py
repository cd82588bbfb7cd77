"""The parts of a model as protocols, and the values they hand each other.

Imports nothing of hdvl but ``geometry`` and ``conversation``, its parts that need no torch.

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
"""The pixels of views, in order: one tensor where all have one size, else a tensor for each size. Views of
one size keep their order, and the plans say which view has which size (:mod:`hdvl.views`)."""


@dataclass(frozen=True)
class Tiles:
    """The pixels of one image's views and the plan they were cut by."""

    pixels: Pixels
    plan: TilePlan


@dataclass(frozen=True)
class FeatureMap:
    """Features of ``t`` equal maps of ``grid`` = (rows, cols) positions, in raster order."""

    values: Float[Tensor, "t n d"]
    grid: Grid

    def __post_init__(self) -> None:
        if self.values.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"feature map must hold rows*cols={self.grid[0] * self.grid[1]} positions, "
                f"got {self.values.shape[1]}"
            )


Features = Float[Tensor, "t n d"] | list[FeatureMap]
"""The features of one image's views: a tensor where all have one size, else a map of each view."""


@dataclass(frozen=True)
class VLMOutput:
    """What ``VLM.forward`` gives: logits, the loss when labels were given, and what the LLM saw."""

    logits: Float[Tensor, "b s v"]
    loss: Float[Tensor, ""] | None
    visual_tokens: list[Float[Tensor, "_m e"]]


@runtime_checkable
class Tiler(Protocol):
    """Cuts an image into tiles. A frozen value: safe to share and to send to workers."""

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
    """A tiler that cuts an image otherwise where its conversation has several."""

    def for_images(self, count: int) -> Tiler: ...


def tiler_for(tiler: Tiler, count: int) -> Tiler:
    """What cuts each of the ``count`` images of a conversation: ``tiler``, or what it says."""
    return tiler.for_images(count) if isinstance(tiler, TilerByCount) else tiler


@runtime_checkable
class Encoder(Protocol):
    """Turns images into patch features, raster order, no prefix tokens mixed in.

    ``grid_for`` gives the grid of an image of ``size`` pixels, or raises a ValueError that says which
    sizes the encoder takes; ``forward`` takes any of them. ``grid`` is that of a tile, ``tile_size``
    pixels square. Images of one call are of one size. That features are in raster order is tried when a
    model is built, but for an encoder with ``from_maps = True``: its features are maps of convolutions
    whose fields of view may be centred beside their places.

    uint8 pixels are normalised inside (/255, ``mean``, ``std``); float pixels are taken as normalised.
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
"""From the views of each image to the encoder's features of each image.

An image whose views have several sizes is as many entries: one for the views of each size.
"""


@runtime_checkable
class FeatureCache(Protocol):
    """Holds encoder features of images that may come again.

    ``features`` returns those of every image of ``images``, and calls ``encode`` with the images that
    it does not hold.
    """

    def features(
        self, images: Sequence[UInt8[Tensor, "_t c _h _w"]], encode: EncodeImages
    ) -> list[Float[Tensor, "_t _n d"]]: ...


@runtime_checkable
class Bridge(Protocol):
    """Maps encoder features to LLM embeddings, and a grid of patches to a grid of tokens.

    Tokens are in raster order; a bridge that gives them in another order has ``raster_order = False``.
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
    """A bridge but for the numbers that only the neighbours know."""

    def __call__(self, *, in_width: int, out_width: int, grid: Grid) -> Bridge: ...


@runtime_checkable
class Merger(Protocol):
    """Puts the views of one image in order: ``stitch`` before the bridge, ``arrange`` after it.

    ``layout`` says what stands in the prompt for the image: text pieces, and counts of visual tokens
    between them, in the order in which ``arrange`` gives the tokens. ``token_count`` is the sum of its
    counts, and the only formula for how many visual tokens an image takes.

    A merger that does not lay the tokens of a tile out as an image may have ``any_token_order = True``;
    the others get bridges in raster order only.
    """

    def stitch(self, features: Features, plan: TilePlan) -> list[FeatureMap]: ...
    def arrange(self, maps: list[FeatureMap], plan: TilePlan) -> Float[Tensor, "m e"]: ...
    def layout(self, plan: TilePlan) -> Layout: ...
    def token_count(self, plan: TilePlan) -> int: ...


@runtime_checkable
class MergerFactory(Protocol):
    """A merger but for what the neighbours know.

    ``grid`` is the encoder's grid of one tile, ``grid_for`` its grid of a view of any size,
    ``out_grid`` the bridge's map of grids, ``width`` the LLM's width.
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
    """What a language model has read so far. ``LLM.new_cache`` makes it, ``LLM.forward`` fills it.

    ``get_seq_length`` is the number of positions read, padding included; ``reorder_cache`` keeps the rows
    of these indices, in their order, each as often as it is named. The names are those of transformers.
    """

    def get_seq_length(self) -> int: ...
    def reorder_cache(self, indices: Int[Tensor, " rows"], /) -> None: ...


@runtime_checkable
class LLM(Protocol):
    """Any causal language model, with its tokenizer. An ``nn.Module``.

    ``forward`` reads embeddings and gives logits.

    * ``logits_to_keep`` asks for the logits of some positions alone.
    * ``segments`` are the lengths of documents packed into one row, none of which sees another (several in
      one segment share their beginning). A class that cannot keep documents apart raises a ``ValueError``
      that says why.
    * ``cache`` holds what was read before: the embeddings go on from there, and are added to it. An
      ``attention_mask`` then covers the positions in the cache too. A prompt may be read in several calls.

    What else a model of hdvl needs:

    * ``tokenizer``, or ``None``; ``new_ids``, the ids that ``add_tokens`` made; ``stop_ids``, which end
      an answer where a call of ``generate`` names none (may be empty: the tokenizer's end then does).
    * ``context``: the most ids that the model can read, or ``None`` where there is no limit.
    * ``embedding_layers``: the embedding of ids and, where there is one, the output head. Their weights,
      rows of ids, may be the same tensor.
    * ``backbone``: the submodule that ``forward`` calls to turn embeddings into hidden states. Low-rank
      adapters, compilation and sharding look into it.
    * ``new_cache``: an empty cache. ``prompt_lengths`` are those of the whole prompts where they are read
      in several calls, for models whose numbers depend on the length of the prompt.
    * ``config_node``: the plain ``_target_`` node that builds a model of the same shape without reading
      weights. It leaves ``tokenizer`` out, which the target takes as an argument of that name.
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
    def generate(
        self,
        embeddings: Float[Tensor, "b s e"],
        attention_mask: Int[Tensor, "b s"] | None = None,
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        stop_ids: Sequence[int] | None = None,
        ended: Callable[[list[int]], bool] | None = None,
        streamer: Any = None,
    ) -> Int[Tensor, "b new"]: ...


@runtime_checkable
class BoxCodec(Protocol):
    """Writes boxes into text and finds them again. Coordinates pass through pixels of the source.

    ``tokens`` are the tags that the tokenizer should know as tokens of their own.
    """

    @property
    def tokens(self) -> tuple[str, ...]: ...
    def encode(self, box: Box, width: int, height: int, *, label: str = "") -> str: ...
    def decode(self, text: str, sizes: Sequence[tuple[int, int]]) -> list[GroundedBox]: ...
    def decode_with_errors(self, text: str, sizes: Sequence[tuple[int, int]]) -> Decoded: ...


@runtime_checkable
class Template(Protocol):
    """How a conversation is written for the LLM. Knows text only: ids are made by ``templates.encode``."""

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
