"""A pipeline whose model says what the test wants it to say."""

from typing import Any

import torch

from hdvl.inference import Pipeline


def say(pipe: Pipeline, *texts: str, end: str = "<|im_end|>") -> list[dict[str, Any]]:
    """Let ``pipe`` answer ``texts``, one a conversation; the options of each call are recorded."""
    rows = [pipe.tokenizer(text + end, add_special_tokens=False)["input_ids"] for text in texts]
    calls: list[dict[str, Any]] = []

    def generate(*_: Any, streamer: Any = None, **options: Any) -> torch.Tensor:
        calls.append(options)
        longest = max(map(len, rows))
        padded = [row + [pipe.tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        if streamer is not None:
            streamer.put(torch.empty(1, 0, dtype=torch.long))
            for token in rows[0]:
                streamer.put(torch.tensor([token]))
            streamer.end()
        return torch.tensor(padded)

    pipe.model.generate = generate  # type: ignore[method-assign]
    return calls
