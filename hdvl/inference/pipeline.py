"""Asking a model: one turn, as a stream, or many conversations in a batch."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hdvl.inference.answer import Answer, Numbers
from hdvl.inference.asking import History, Images, Prompt, build_messages, check_tiles, open_end
from hdvl.inference.recent_features import RecentFeatures
from hdvl.inference.stream import AnswerStream
from hdvl.inference.text import Reader
from hdvl.model import VLM
from hdvl.processor import Processor, Sample, collate, needed
from hdvl.protocols import FeatureCache, Message, Template, Tiler


class Pipeline:
    """A model with all that turns conversations into answers.

    Options of every question (``max_new_tokens``, ``do_sample``, ``temperature``, ...) are those of the
    LLM's ``generate``; ``stop`` adds strings that end the answer. The encoder's features
    of the last question's images are kept in ``feature_cache``: asked about again, as in the next turn,
    these images cost the encoder nothing.

    Args:
        model: the model, which is set to evaluation mode.
        max_length: most ids of a prompt.
        feature_cache: what keeps features, in place of a :class:`RecentFeatures` of the encoder.
    """

    model: VLM
    processor: Processor
    feature_cache: FeatureCache

    def __init__(
        self,
        *,
        model: VLM,
        max_length: int | None = None,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = Processor.of(model, max_length=max_length)
        if feature_cache is None:
            feature_cache = RecentFeatures(model.get_submodule("encoder"))
        self.feature_cache = feature_cache

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer. A model without one can be used by its ids alone."""
        return needed(self.processor.tokenizer)

    @property
    def tiler(self) -> Tiler:
        """What cuts the images."""
        return self.processor.tiler

    @property
    def template(self) -> Template:
        """How conversations are written."""
        return self.processor.template

    def chat(
        self,
        prompt: Prompt,
        images: Images = None,
        history: History | None = None,
        system: str | None = None,
        *,
        image_folder: str | Path | None = None,
        num_patches_list: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        **generation: Any,
    ) -> Answer:
        """One question, after ``history`` if there is one.

        Args:
            prompt: the question; ``<image>`` places an image, else the images stand in front. Or
                a list: ``[{"image": "a.png"}, {"text": "Where is it?"}]``.
            images: new images: paths, ``data:`` URLs, bytes, Pillow images or arrays, one or a list.
            history: ``answer.history`` of the turn before, or pairs of a question and its answer.
            system: the system message, of a conversation's first turn.
            image_folder: take ``<img>path</img>`` in questions as an image inside this folder.
            num_patches_list: tiles of each image of the conversation, checked against the tiler's.
            stop: strings that end the answer, beside those of the template.
            **generation: options of the LLM's ``generate``.

        Raises:
            ValueError: images and ``<image>`` differ in number, an image cannot be read, control
                tokens or open tags in the text, or a prompt over ``max_length``.
        """
        messages = self._ask(prompt, images, history, system, image_folder)
        start = time.perf_counter()
        sample = self._sample(messages, num_patches_list)
        reader = Reader.of(self.tokenizer, self.template, stop)
        (ids,) = self._new_ids([sample], reader, generation)
        return self._answer(messages, sample, ids, reader, time.perf_counter() - start)

    def stream(
        self,
        prompt: Prompt,
        images: Images = None,
        history: History | None = None,
        system: str | None = None,
        *,
        image_folder: str | Path | None = None,
        num_patches_list: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        **generation: Any,
    ) -> AnswerStream:
        """As :meth:`chat`, but the text comes piece by piece; the pieces joined are its text.

        The images are read before this returns, so their errors come from here. The whole answer is
        the stream's ``answer`` afterwards.
        """
        messages = self._ask(prompt, images, history, system, image_folder)
        start = time.perf_counter()
        sample = self._sample(messages, num_patches_list)
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
            conversations: messages with their images.
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
            samples = [self._sample(messages) for messages in group]
            rows = self._new_ids(samples, reader, generation)
            seconds = time.perf_counter() - start
            answers += [
                self._answer(messages, sample, ids, reader, seconds)
                for messages, sample, ids in zip(group, samples, rows, strict=True)
            ]
        return answers

    def _ask(
        self,
        prompt: Prompt,
        images: Images,
        history: History | None,
        system: str | None,
        image_folder: str | Path | None,
    ) -> tuple[Message, ...]:
        boxes = self.template.boxes
        return build_messages(
            prompt, images, history, system, boxes=boxes, image_folder=image_folder
        )

    def _sample(
        self, messages: Sequence[Message], num_patches_list: Sequence[int] | None = None
    ) -> Sample:
        sample = self.processor(messages, add_generation_prompt=True)
        check_tiles(sample.plans, num_patches_list)
        return sample

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
            feature_cache=self.feature_cache,
            stop_ids=reader.end_ids,
            **({"ended": reader.stopped} if reader.stops else {}),
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
        whole = open_end(messages[-1].text) + text
        boxes, malformed = self.template.boxes.decode_with_errors(whole, sizes)
        return Answer(
            text=text,
            boxes=tuple(boxes),
            malformed=tuple(malformed),
            history=(*messages, Message("assistant", text)),
            images=tuple(image for message in sample.read(messages) for image in message.images),
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
