"""Asking a model: one turn, as a stream, or many conversations in a batch."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from hdvl.images import Source
from hdvl.inference.answer import Answer, Numbers
from hdvl.inference.stream import AnswerStream
from hdvl.inference.text import Reader
from hdvl.model import VLM
from hdvl.processor import Processor, Sample, collate
from hdvl.protocols import Message, Template, Tiler

Images = Source | Sequence[Source] | None


class Pipeline:
    """A model with all that turns conversations into answers.

    Options of every question (``max_new_tokens``, ``do_sample``, ``temperature``, ...) are those of the
    LLM's ``generate``; ``stop`` adds strings that end the answer.
    """

    model: VLM
    processor: Processor

    def __init__(self, *, model: VLM, max_length: int | None = None) -> None:
        self.model = model.eval()
        self.processor = Processor.of(model, max_length=max_length)

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer."""
        return self.processor.tokenizer

    @property
    def tiler(self) -> Tiler:
        """What cuts the pictures."""
        return self.processor.tiler

    @property
    def template(self) -> Template:
        """How conversations are written."""
        return self.processor.template

    def chat(
        self,
        prompt: str,
        images: Images = None,
        history: Sequence[Message] | None = None,
        system: str | None = None,
        **generation: Any,
    ) -> Answer:
        """One question, after ``history`` if there is one.

        Args:
            prompt: the question; ``<image>`` places a picture, else the pictures stand in front.
            images: new pictures: paths, bytes, Pillow pictures or arrays, one or a list.
            history: ``answer.history`` of the turn before.
            system: the system message, of a conversation's first turn.
            **generation: options of the LLM's ``generate``, and ``stop``.

        Raises:
            ValueError: pictures and ``<image>`` differ in number, a picture cannot be read, control
                tokens in the text, or a prompt over ``max_length``.
        """
        return self.generate([ask(prompt, images, history, system)], **generation)[0]

    def stream(
        self,
        prompt: str,
        images: Images = None,
        history: Sequence[Message] | None = None,
        system: str | None = None,
        *,
        stop: Sequence[str] = (),
        **generation: Any,
    ) -> AnswerStream:
        """As :meth:`chat`, but the text comes piece by piece; the pieces joined are its text.

        The pictures are read before this returns, so their errors come from here. The whole answer is
        the stream's ``answer`` afterwards.
        """
        messages = ask(prompt, images, history, system)
        start = time.perf_counter()
        sample = self.processor(messages, add_generation_prompt=True)
        reader = Reader.of(self.tokenizer, self.template, stop)

        def run(streamer: Any) -> Answer:
            (ids,) = self._new_ids([sample], reader, {**generation, "streamer": streamer})
            return self._answer(messages, sample, ids, reader, time.perf_counter() - start)

        return AnswerStream(run, reader)

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        batch_size: int | None = None,
        stop: Sequence[str] = (),
        **generation: Any,
    ) -> list[Answer]:
        """The answer to each conversation (it ends with the user's turn), in their order.

        Greedy answers do not depend on what else is in the batch (exactly so in float32).

        Args:
            conversations: messages with their pictures.
            batch_size: most conversations at a time; None takes all at once.
            stop: strings that end an answer, beside those of the template.
            **generation: options of the LLM's ``generate``.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, got {batch_size}")
        reader = Reader.of(self.tokenizer, self.template, stop)
        answers: list[Answer] = []
        step = batch_size or max(1, len(conversations))
        for first in range(0, len(conversations), step):
            group = [tuple(messages) for messages in conversations[first : first + step]]
            start = time.perf_counter()
            samples = [self.processor(m, add_generation_prompt=True) for m in group]
            rows = self._new_ids(samples, reader, generation)
            seconds = time.perf_counter() - start
            answers += [
                self._answer(messages, sample, ids, reader, seconds)
                for messages, sample, ids in zip(group, samples, rows, strict=True)
            ]
        return answers

    @torch.inference_mode()
    def _new_ids(
        self, samples: Sequence[Sample], reader: Reader, generation: dict[str, Any]
    ) -> list[list[int]]:
        pad = self.tokenizer.pad_token_id
        batch = collate(samples, pad_id=0 if pad is None else int(pad), side="left")
        batch = batch.to(next(self.model.parameters()).device)
        ids = self.model.generate(
            batch.input_ids,
            batch.pixels,
            batch.plans,
            batch.attention_mask,
            stop_ids=reader.end_ids,
            **generation,
        )
        return [reader.until_end(row) for row in ids.tolist()]

    def _answer(
        self,
        messages: tuple[Message, ...],
        sample: Sample,
        ids: list[int],
        reader: Reader,
        seconds: float,
    ) -> Answer:
        text = reader.text(ids)
        sizes = [(plan.width, plan.height) for plan in sample.plans]
        count = self.processor.token_count
        return Answer(
            text=text,
            boxes=tuple(self.template.boxes.decode(text, sizes)),
            history=(*messages, Message("assistant", text)),
            images=tuple(image for message in messages for image in message.images),
            plans=sample.plans,
            numbers=Numbers(
                tiles=len(sample.pixels),
                visual_tokens=sum(count(plan) for plan in sample.plans),
                prompt_tokens=len(sample.ids),
                new_tokens=len(ids),
                seconds=seconds,
            ),
            exif=self.tiler.exif,
        )


def ask(
    prompt: str,
    images: Images = None,
    history: Sequence[Message] | None = None,
    system: str | None = None,
) -> tuple[Message, ...]:
    """The conversation that asks ``prompt`` about ``images`` after ``history``."""
    before = tuple(history or ())
    if system is not None:
        if before:
            raise ValueError("system must be given with the first turn, there is a history already")
        before = (Message("system", system),)
    return (*before, Message("user", prompt, _as_tuple(images)))


def _as_tuple(images: Images) -> tuple[Source, ...]:
    if images is None:
        return ()
    return tuple(images) if isinstance(images, list | tuple) else (images,)  # type: ignore[return-value]
