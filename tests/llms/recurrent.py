"""A GRU language model that implements the ``LLM`` protocol without transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hdvl.protocols import Segment


class State:
    """The last hidden state of each row, and how many positions were read."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.length = 0

    def get_seq_length(self) -> int:
        return self.length

    def reorder_cache(self, indices: Tensor) -> None:
        self.hidden = None if self.hidden is None else self.hidden[indices]


class Body(nn.Module):
    """Embeddings to hidden states, position by position; padding leaves the state as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.cell = nn.GRUCell(width, width)

    def forward(
        self, embeddings: Tensor, real: Tensor, starts: set[int], hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        empty = embeddings.new_zeros(embeddings.shape[0], embeddings.shape[2])
        state, states = empty if hidden is None else hidden, []
        for place, step in enumerate(self.inner(embeddings).unbind(1)):
            state = empty if place in starts else state
            state = torch.where(real[:, place, None], self.cell(step, state), state)
            states.append(state)
        return torch.stack(states, 1), state


class Recurrent(nn.Module):
    """The protocol in full; conversations that share images it refuses by name."""

    context = None

    def __init__(self, *, tokenizer: Any, width: int = 32, stop_ids: Sequence[int] = ()) -> None:
        super().__init__()
        self.tokenizer, self.width, self.stop_ids = tokenizer, width, tuple(stop_ids)
        self.new_ids: tuple[int, ...] = ()
        self.table = nn.Embedding(len(tokenizer), width)
        self.body, self.head = Body(width), nn.Linear(width, len(tokenizer), bias=False)

    @property
    def backbone(self) -> nn.Module:
        return self.body

    def add_tokens(self, tokens: Sequence[str]) -> int:
        before = len(self.tokenizer)
        self.tokenizer.add_tokens([token for token in tokens])
        self.new_ids += tuple(range(before, len(self.tokenizer)))
        self.table = nn.Embedding(len(self.tokenizer), self.width)
        self.head = nn.Linear(self.width, len(self.tokenizer), bias=False)
        return len(self.tokenizer) - before

    def register_image_token(self, token: str, token_id: int) -> None:
        if self.tokenizer.convert_tokens_to_ids(token) != token_id:
            raise ValueError(f"image_token_id must be the id of {token}, got {token_id}")

    def embedding_layers(self) -> list[Any]:
        return [self.table, self.head]

    def config_node(self) -> dict[str, Any]:
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return {"_target_": kind, "width": self.width, "stop_ids": list(self.stop_ids)}

    def embed(self, ids: Tensor) -> Tensor:
        embeddings: Tensor = self.table(ids)
        return embeddings

    def new_cache(self, prompt_lengths: Sequence[int] | None = None) -> State:
        return State()

    def forward(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        logits_to_keep: Tensor | None = None,
        segments: Sequence[Segment] | None = None,
        cache: Any = None,
    ) -> Tensor:
        lengths = [segment for segment in segments or () if isinstance(segment, int)]
        if len(lengths) != len(segments or ()):
            raise ValueError("a recurrent model cannot share images among conversations")
        starts = {sum(lengths[:number]) for number in range(len(lengths))}
        count = embeddings.shape[1]
        real = torch.ones_like(embeddings[..., 0], dtype=torch.bool)
        if attention_mask is not None:
            real = attention_mask[:, -count:].bool()
        hidden = None if cache is None else cache.hidden
        states, last = self.body(embeddings, real, starts, hidden)
        if cache is not None:
            cache.hidden, cache.length = last, cache.length + count
        logits: Tensor = self.head(states if logits_to_keep is None else states[:, logits_to_keep])
        return logits
