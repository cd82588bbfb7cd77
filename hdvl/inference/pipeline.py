"""Asking a model: one turn, as a stream, or many conversations in a batch."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.inference.answer import Answer, Numbers
from hdvl.inference.asking import History, Images, Prompt, build_messages, check_tiles, open_end
from hdvl.inference.recent_features import RecentFeatures
from hdvl.inference.sampling import sampling_options
from hdvl.inference.stream import AnswerStream
from hdvl.inference.text import Detokenizer, own_ids
from hdvl.loss import IGNORED
from hdvl.messages import Turn, as_messages
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, Sample, collate, require_tokenizer
from hdvl.protocols import FeatureCache, Message, Pixels, Template, TilePlan, Tiler
from hdvl.views import view_count

TokenPrompt = tuple[Int[Tensor, " _s"], Pixels, Sequence[TilePlan]]
"""The ids of a prompt, and the pixels and plans of its images."""


class Pipeline:
    """A model with all that turns conversations into answers.

    Options of every question (``max_new_tokens``, ``do_sample``, ``temperature``, ...) are those of the
    LLM's ``generate``; a temperature above 0 means sampling. ``stop`` adds strings
    that end the answer. The encoder's features of the last question's images are kept in
    ``feature_cache``: asked about again, as in the next turn, these images cost the encoder nothing.

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
        return require_tokenizer(self.processor.tokenizer)

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
        stop: str | Sequence[str] = (),
        **generation: Any,
    ) -> Answer:
        """One question, after ``history`` if there is one.

        Args:
            prompt: the question; ``<image>`` places an image, else the images stand in front. Or
                a list: ``[{"image": "a.png"}, {"text": "Where is it?"}]``.
            images: new images: paths, ``data:`` URLs, bytes, Pillow images or arrays, one or a list.
            history: ``answer.history`` of the turn before, pairs of a question and its answer, or turns
                such as ``{"role": "user", "content": "What is it?"}``.
            system: the system message, of a conversation's first turn.
            image_folder: take ``<img>path</img>`` in questions as an image inside this folder.
            num_patches_list: tiles of each image of the conversation, checked against the tiler's.
            stop: a string, or strings, that end the answer before their first occurrence, beside those
                of the template.
            **generation: options of the LLM's ``generate``.

        Raises:
            ValueError: images and ``<image>`` differ in number, an image cannot be read, control
                tokens or open tags in the text, or a prompt over ``max_length``.
        """
        messages = self._ask(prompt, images, history, system, image_folder)
        start = time.perf_counter()
        sample = self._sample(messages, num_patches_list)
        detokenizer = Detokenizer.of(self.tokenizer, self.template, stop)
        (ids,) = self._new_ids([sample], detokenizer, generation)
        return self._answer(messages, sample, ids, detokenizer, time.perf_counter() - start)

    def stream(
        self,
        prompt: Prompt,
        images: Images = None,
        history: History | None = None,
        system: str | None = None,
        *,
        image_folder: str | Path | None = None,
        num_patches_list: Sequence[int] | None = None,
        stop: str | Sequence[str] = (),
        **generation: Any,
    ) -> AnswerStream:
        """As :meth:`chat`, but the text comes piece by piece; the pieces joined are its text.

        The images are read before this returns, so their errors come from here. The whole answer is
        the stream's ``answer`` afterwards.
        """
        messages = self._ask(prompt, images, history, system, image_folder)
        start = time.perf_counter()
        sample = self._sample(messages, num_patches_list)
        detokenizer = Detokenizer.of(self.tokenizer, self.template, stop)

        def run(streamer: Any) -> Answer:
            (ids,) = self._new_ids([sample], detokenizer, {**generation, "streamer": streamer})
            return self._answer(messages, sample, ids, detokenizer, time.perf_counter() - start)

        return AnswerStream(run, detokenizer)

    def generate(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        batch_size: int | None = None,
        stop: str | Sequence[str] = (),
        **generation: Any,
    ) -> list[Answer]:
        """The answer to each conversation (it ends with the user's turn), in their order.

        Greedy answers do not depend on what else is in the batch (exactly so in float32).

        Args:
            conversations: messages, or turns of ``role`` and ``content``, with their images.
            batch_size: most conversations at a time; None takes all at once.
            stop: a string, or strings, that end an answer before their first occurrence, beside those
                of the template.
            **generation: options of the LLM's ``generate``.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, got {batch_size}")
        answers: list[Answer] = []
        step = batch_size or max(1, len(conversations))
        for first in range(0, len(conversations), step):
            group = [as_messages(turns) for turns in conversations[first : first + step]]
            start = time.perf_counter()
            samples = [self._sample(messages) for messages in group]
            answers += self.answer_samples(group, samples, stop=stop, start=start, **generation)
        return answers

    def answer_samples(
        self,
        conversations: Sequence[Sequence[Message]],
        samples: Sequence[Sample],
        *,
        stop: str | Sequence[str] = (),
        start: float | None = None,
        **generation: Any,
    ) -> list[Answer]:
        """As :meth:`generate` in one batch, of conversations that were preprocessed before.

        Args:
            conversations: messages that end with the user's.
            samples: ``processor(messages, add_generation_prompt=True)`` of each.
            stop: as of :meth:`generate`.
            start: the ``time.perf_counter()`` from which seconds are counted; ``None`` is now.
            **generation: options of the LLM's ``generate``.
        """
        start = time.perf_counter() if start is None else start
        detokenizer = Detokenizer.of(self.tokenizer, self.template, stop)
        rows = self._new_ids(samples, detokenizer, generation)
        seconds = time.perf_counter() - start
        return [
            self._answer(tuple(messages), sample, ids, detokenizer, seconds)
            for messages, sample, ids in zip(conversations, samples, rows, strict=True)
        ]

    @torch.inference_mode()
    def generate_ids(
        self,
        prompts: Sequence[TokenPrompt],
        *,
        stop_ids: Sequence[int] | None = None,
        ended: Callable[[list[int]], bool] | None = None,
        **generation: Any,
    ) -> list[list[int]]:
        """The new ids of each prompt, to the one that ended it, included. All run in one batch.

        Args:
            prompts: ids, pixels and plans of each prompt, as the processor makes them.
            stop_ids: ids that end an answer; None takes those of template and tokenizer.
            ended: says of an answer's ids so far whether it ends here, beside ``stop_ids``.
            **generation: options of the LLM's ``generate``. A ``temperature`` above 0, a ``top_p`` or
                a ``top_k`` mean sampling, unless ``do_sample`` says otherwise.
        """
        if not prompts:
            return []
        if stop_ids is None:
            stop_ids = Detokenizer.of(self.tokenizer, self.template).end_ids
        batch = self._batch([_as_sample(*prompt) for prompt in prompts])
        ids = self.model.generate(
            batch.input_ids,
            batch.pixels,
            batch.plans,
            batch.attention_mask,
            feature_cache=self.feature_cache,
            stop_ids=stop_ids,
            **({} if ended is None else {"ended": ended}),
            **sampling_options(generation),
        )
        return [own_ids(row, stop_ids, ended) for row in ids.tolist()]

    @torch.inference_mode()
    def logits(self, messages: Sequence[Turn]) -> Float[Tensor, "s v"]:
        """float32 logits of every position of the prompt that ``messages`` make, from one forward.

        The last position's are those of the answer's first id.
        """
        batch = self._batch([self._sample(as_messages(messages))])
        output = self.model(
            batch.input_ids, batch.pixels, batch.plans, feature_cache=self.feature_cache
        )
        logits: Tensor = output.logits[0].float()
        return logits

    def clear_caches(self) -> None:
        """Free the features that are kept in memory; caches on the disk stay as they are."""
        if isinstance(self.feature_cache, RecentFeatures):
            self.feature_cache.clear()

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        """The samples, padded on the left, where the model is."""
        pad = None if self.processor.tokenizer is None else self.tokenizer.pad_token_id
        batch = collate(samples, pad_id=0 if pad is None else int(pad), side="left")
        return batch.to(next(self.model.parameters()).device)

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

    def _new_ids(
        self, samples: Sequence[Sample], detokenizer: Detokenizer, generation: dict[str, Any]
    ) -> list[list[int]]:
        rows = self.generate_ids(
            [(sample.ids, sample.pixels, sample.plans) for sample in samples],
            stop_ids=detokenizer.end_ids,
            ended=detokenizer.just_stopped if detokenizer.stops else None,
            **generation,
        )
        return [detokenizer.own_ids(row) for row in rows]

    def _answer(
        self,
        messages: tuple[Message, ...],
        sample: Sample,
        ids: list[int],
        detokenizer: Detokenizer,
        seconds: float,
    ) -> Answer:
        text = detokenizer.text(ids)
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
                tiles=view_count(sample.pixels),
                visual_tokens=sum(count(plan) for plan in sample.plans),
                prompt_tokens=len(sample.ids),
                new_tokens=len(ids),
                seconds=seconds,
            ),
            exif=self.tiler.exif,
        )


def _as_sample(ids: Int[Tensor, " s"], pixels: Pixels, plans: Sequence[TilePlan]) -> Sample:
    labels = torch.full_like(ids, IGNORED)
    return Sample(ids=ids, labels=labels, pixels=pixels, plans=tuple(plans))
