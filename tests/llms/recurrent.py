"""A language model that knows nothing of transformers and satisfies the ``LLM`` protocol."""

from typing import Any

import torch
from torch import Tensor, nn


class State:
    """The last hidden state of each row (b, e), and how many positions were read."""

    hidden: Tensor | None = None
    length = 0

    def get_seq_length(self) -> int:
        return self.length

    def reorder_cache(self, indices: Tensor) -> None:
        self.hidden = None if self.hidden is None else self.hidden[indices]


class Body(nn.Module):
    """An Elman network whose state starts anew with each document and skips padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.step = nn.Linear(2 * width, width)

    def forward(self, embeddings: Tensor, real: Tensor, starts: set[int], state: Tensor) -> Tensor:
        states = []
        for position, embedding in enumerate(embeddings.unbind(1)):
            state = torch.zeros_like(state) if position in starts else state
            following = self.step(torch.cat([embedding, state], -1)).tanh()
            state = torch.where(real[:, position, None], following, state)
            states.append(state)
        return torch.stack(states, 1)


class Recurrent(nn.Module):
    """The whole protocol. Conversations that share images are refused."""

    stop_ids, new_ids, context = (), (), None

    def __init__(self, *, tokenizer: Any, width: int = 32) -> None:
        super().__init__()
        self.tokenizer, self.width, self.backbone = tokenizer, width, Body(width)
        self.add_tokens([])

    def add_tokens(self, tokens: Any) -> int:
        before = len(self.tokenizer)
        self.tokenizer.add_tokens(list(tokens))
        self.embed = nn.Embedding(len(self.tokenizer), self.width)
        self.head = nn.Linear(self.width, len(self.tokenizer), bias=False)
        self.new_ids += tuple(range(before, len(self.tokenizer)))
        return len(self.tokenizer) - before

    def register_image_token(self, token: str, token_id: int) -> None:
        assert self.tokenizer.convert_tokens_to_ids(token) == token_id

    def embedding_layers(self) -> list[Any]:
        return [self.embed, self.head]

    def config_node(self) -> dict[str, Any]:
        return {"_target_": "tests.llms.recurrent.Recurrent", "width": self.width}

    def new_cache(self, prompt_lengths: Any = None) -> State:
        return State()

    def forward(self, embeddings: Tensor, attention_mask=None, position_ids=None, **options: Any):
        cache, segments = options.get("cache") or State(), options.get("segments") or []
        if not all(isinstance(segment, int) for segment in segments):
            raise ValueError("a recurrent model cannot share images among conversations")
        starts = {sum(segments[:number]) for number in range(len(segments))}
        count, state = embeddings.shape[1], cache.hidden
        state = torch.zeros_like(embeddings[:, 0]) if state is None else state
        mask = torch.ones_like(embeddings[..., 0]) if attention_mask is None else attention_mask
        states = self.backbone(embeddings, mask[:, -count:].bool(), starts, state)
        cache.hidden, cache.length = states[:, -1], cache.length + count
        kept = options.get("logits_to_keep")
        return self.head(states if kept is None else states[:, kept])
