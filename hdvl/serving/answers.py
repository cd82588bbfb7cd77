"""Answers in the forms of OpenAI's API: objects, and chunks of streams."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hdvl.decoding import TokenLogprob
from hdvl.inference import Pipeline
from hdvl.inference.confidence import confidence_of
from hdvl.inference.generation import Delta, Generation, ImageUsage
from hdvl.protocols import TilePlan

_REASONS = {"stop": "stop", "length": "length", "cancelled": "stop", "error": "stop"}


class ChatForm:
    """The form of ``/v1/chat/completions``.

    Args:
        model: the name of the model that clients use.
        pipe: the model, for the text of ids and for boxes.
        logprobs: whether log-probabilities are reported.
        confidence: whether the confidence in each answer is reported.

    Attributes:
        opened: the open tag at the end of the prompt, which the answer continues; empty if there is none.
    """

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    opened = ""

    def __init__(
        self, model: str, pipe: Pipeline, *, logprobs: bool, confidence: bool = False
    ) -> None:
        self.pipe, self.logprobs, self.confidence = pipe, logprobs, confidence
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The object of complete answers."""
        choices = [self._choice(index, answer) for index, answer in enumerate(generations)]
        return {**self.head, "object": self.kind, "choices": choices, "usage": usage(generations)}

    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk before the first text of an answer."""
        return self._chunk({"index": index, "delta": {"role": "assistant", "content": ""}})

    def chunk(self, index: int, delta: Delta) -> dict[str, Any]:
        """The chunk with the new part of an answer."""
        choice = {"index": index, "delta": {"content": delta.text}}
        return self._chunk({**choice, "logprobs": self._report(delta.logprobs)})

    def last(self, index: int, generation: Generation) -> dict[str, Any]:
        """The chunk that ends an answer."""
        choice = {"index": index, "delta": {}, **self._additions(generation)}
        return self._chunk(choice, _reason(generation))

    def usage_chunk(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The chunk of the numbers of tokens, after all answers."""
        return {
            **self.head,
            "object": self.chunk_kind,
            "choices": [],
            "usage": usage(generations),
        }

    def _chunk(self, choice: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {
            **self.head,
            "object": self.chunk_kind,
            "choices": [{"logprobs": None, **choice, "finish_reason": reason}],
        }

    def _choice(self, index: int, generation: Generation) -> dict[str, Any]:
        message = {"role": "assistant", "content": generation.text, "refusal": None}
        return {
            "index": index,
            "message": {**message, **self._additions(generation)},
            "logprobs": self._report(generation.logprobs),
            "finish_reason": _reason(generation),
        }

    def _additions(self, generation: Generation) -> dict[str, Any]:
        """What an answer has beside OpenAI's fields: boxes, and the confidence in it if it was requested.

        The boxes are in pixels of the image that they are in.
        """
        sizes = [(image.width, image.height) for image in generation.usage.images]
        boxes, malformed = self.pipe.template.boxes.decode_with_errors(
            self.opened + generation.text, sizes
        )
        found: dict[str, Any] = {
            "boxes": [
                {"label": box.label, "box": [float(value) for value in box.box], "image": box.image}
                for box in boxes
            ]
        }
        if malformed:
            found["malformed_boxes"] = list(malformed)
        if self.confidence:
            logprobs = [token.logprob for token in generation.logprobs]
            sure = confidence_of(logprobs, self.pipe.calibration, boxed=bool(boxes))
            found["confidence"] = None if sure is None else asdict(sure)
        return found

    def _report(self, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {
            "content": [
                {
                    **self._token(token.token_id, token.logprob),
                    "top_logprobs": [self._token(*pair) for pair in token.top],
                }
                for token in found
            ],
            "refusal": None,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.pipe.tokenizer.decode([token])
        # OpenAI's API writes a probability of 0 so, since JSON has no infinity.
        return {
            "token": text,
            "logprob": max(logprob, -9999.0),
            "bytes": list(text.encode(errors="replace")),
        }


class TextForm(ChatForm):
    """The form of ``/v1/completions``."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def first(self, index: int) -> dict[str, Any] | None:
        """Nothing: a text has no role."""
        return None

    def chunk(self, index: int, delta: Delta) -> dict[str, Any]:
        """The chunk with the new part of an answer."""
        return self._chunk(
            {"index": index, "text": delta.text, "logprobs": self._report(delta.logprobs)}
        )

    def last(self, index: int, generation: Generation) -> dict[str, Any]:
        """The chunk that ends an answer."""
        return self._chunk({"index": index, "text": ""}, _reason(generation))

    def _choice(self, index: int, generation: Generation) -> dict[str, Any]:
        return {
            "index": index,
            "text": generation.text,
            "logprobs": self._report(generation.logprobs),
            "finish_reason": _reason(generation),
        }

    def _report(self, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        decode = self.pipe.tokenizer.decode
        texts = [decode([token.token_id]) for token in found]
        offsets = [0]
        for text in texts:
            offsets.append(offsets[-1] + len(text))
        return {
            "tokens": texts,
            "token_logprobs": [max(token.logprob, -9999.0) for token in found],
            "top_logprobs": [
                {decode([one]): max(value, -9999.0) for one, value in token.top} for token in found
            ],
            "text_offset": offsets[:-1],
        }


def _reason(generation: Generation) -> str:
    return _REASONS[str(generation.finish_reason)]


def usage(generations: Sequence[Generation]) -> dict[str, Any]:
    """The numbers of tokens, and for each image the size that was received, its tiles and its tokens."""
    # Answers to one prompt share its ids; it is counted once.
    prompts = {id(one.request.ids): one.usage for one in generations}
    used = list(prompts.values())
    prompt = sum(one.prompt_tokens for one in used)
    new = sum(one.usage.new_tokens for one in generations)
    images = [_counted(image) for image in used[0].images]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {
            "cached_tokens": sum(one.cached_tokens for one in used),
            "image_tokens": sum(image["visual_tokens"] for image in images),
            "images": images,
        },
    }


def _counted(image: ImageUsage) -> dict[str, int]:
    counted: dict[str, int] = asdict(image)
    if not counted["missing_tiles"]:
        del counted["missing_tiles"]
    return counted


def tiles_form(plans: Sequence[tuple[TilePlan, int]]) -> dict[str, Any]:
    """How images are cut, and the number of visual tokens of each: the object of ``/v1/tiles``."""
    images = [
        {
            "width": plan.width,
            "height": plan.height,
            "rows": plan.rows,
            "cols": plan.cols,
            "tiles": plan.count,
            "visual_tokens": count,
            "views": [
                {"box": list(view.box), "size": list(view.size), "thumbnail": view.is_thumbnail}
                for view in plan.views
            ],
        }
        for plan, count in plans
    ]
    total = sum(count for _, count in plans)
    return {"object": "list", "images": images, "visual_tokens": total}
