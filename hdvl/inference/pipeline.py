"""Pipeline that answers questions: one turn, as a stream, or many conversations in a batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdvl.inference.answer import Answer
from hdvl.inference.answering import build_answer
from hdvl.inference.asking import History, Images, Prompt, build_messages, check_tiles
from hdvl.inference.attention import AttentionMap, attention_maps, check_attention
from hdvl.inference.confidence import Calibration, with_logprobs
from hdvl.inference.engine import Engine
from hdvl.inference.familiarity import Familiarity
from hdvl.inference.generation import Generation, Request
from hdvl.inference.image_cache_files import IMAGE_CACHE_FOLDER_BYTES, ImageCacheFiles
from hdvl.inference.open_ended import encode_open, open_ended
from hdvl.inference.sampling import SamplingParams
from hdvl.inference.selection import (
    SELECT_TILES,
    WHOLE,
    Budget,
    Encode,
    encode_prompt,
    select_windows,
)
from hdvl.inference.stream import AnswerStream
from hdvl.messages import Turn, as_messages
from hdvl.model import VLM
from hdvl.processor import Processor, Sample, collate, require_tokenizer
from hdvl.protocols import FeatureCache, Message, Pixels, Template, TilePlan, Tiler

TokenPrompt = tuple[Int[Tensor, " _s"], Pixels, Sequence[TilePlan]]
"""The ids of a prompt, and the pixels and plans of its images."""


class Pipeline:
    """A model with the preprocessing and the decoding of answers.

    Options of every question (``max_new_tokens``, ``do_sample``, ``temperature``, ``stop``, ``seed``, ...)
    are those of :class:`~hdvl.inference.sampling.SamplingParams`. All answers come from one
    :class:`~hdvl.inference.engine.Engine`, which encodes an image once and reads a prompt that begins
    like an earlier one only from where it differs.

    Args:
        model: the model, which is set to evaluation mode.
        max_length: most ids of a prompt.
        feature_cache: cache of encoder features for images that the engine does not know.
        engine: options of the engine: ``max_slots``, ``max_tokens``, ``prefill_chunk``,
            ``image_cache_bytes``, ``prefix_cache_bytes``; and ``image_cache_folder`` with
            ``image_cache_folder_bytes``, where visual tokens are kept for later processes
            (:class:`~hdvl.inference.image_cache_files.ImageCacheFiles`).
    """

    model: VLM
    processor: Processor
    engine: Engine
    familiarity: Familiarity | None
    calibration: Calibration | None

    def __init__(
        self,
        *,
        model: VLM,
        max_length: int | None = None,
        feature_cache: FeatureCache | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = Processor.of(model, max_length=max_length, recent=True)
        options = dict(engine or {})
        folder = options.pop("image_cache_folder", None)
        limit = options.pop("image_cache_folder_bytes", IMAGE_CACHE_FOLDER_BYTES)
        self.engine = Engine(self.model, feature_cache=feature_cache, **options)
        if folder is not None:
            self.engine.image_cache.files = ImageCacheFiles(folder, limit, self.model)
        self.familiarity = None
        self.calibration = None

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer. A model without one can only be used with ids."""
        return require_tokenizer(self.processor.tokenizer)

    @property
    def tiler(self) -> Tiler:
        """The tiler of the model."""
        return self.processor.tiler

    @property
    def template(self) -> Template:
        """The template of the model."""
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
        max_tiles: int | None = None,
        select: str | None = None,
        select_tiles: int = SELECT_TILES,
        stop: str | Sequence[str] = (),
        **generation_options: Any,
    ) -> Answer:
        """Answer one question, after ``history`` if there is one.

        Args:
            prompt: the question; ``<image>`` marks the position of an image, otherwise images come first.
                Or a list: ``[{"image": "a.png"}, {"text": "Where is it?"}]``.
            images: new images: paths, ``data:`` URLs, bytes, Pillow images or arrays, one or a list.
            history: ``answer.history`` of the turn before, pairs of a question and its answer, or turns
                such as ``{"role": "user", "content": "What is it?"}``.
            system: the system message, of a conversation's first turn.
            image_folder: a folder whose files may be named in questions by ``<img>path</img>``.
            num_patches_list: tiles of each image of the conversation, checked against the tiler's.
            max_tiles: the most tiles of each image, its thumbnail not counted, instead of the limit of the
                tiler.
            select: ``thumbnail`` reads only those windows of each image that the question attends to in its
                thumbnail, see :mod:`hdvl.inference.selection`; ``None`` reads all.
            select_tiles: the number of windows that ``select`` keeps of each image.
            stop: a string, or strings, that end the answer before their first occurrence, in addition to
                those of the template.
            **generation_options: options of the answer, see :class:`SamplingParams`.

        Raises:
            ValueError: images and ``<image>`` differ in number, an image cannot be read, the text contains
                control tokens or unclosed tags, or the prompt is longer than ``max_length``.
        """
        messages = self.conversation(prompt, images, history, system, image_folder=image_folder)
        sample = self._sample(messages, num_patches_list, Budget(max_tiles, select, select_tiles))
        generation = self._submit(sample, with_logprobs(stop=stop, **generation_options))
        return self._answer(messages, sample, generation.wait())

    def stream(
        self,
        prompt: Prompt,
        images: Images = None,
        history: History | None = None,
        system: str | None = None,
        *,
        image_folder: str | Path | None = None,
        num_patches_list: Sequence[int] | None = None,
        max_tiles: int | None = None,
        select: str | None = None,
        select_tiles: int = SELECT_TILES,
        stop: str | Sequence[str] = (),
        **generation_options: Any,
    ) -> AnswerStream:
        """Like :meth:`chat`, but return a stream of pieces of the text.

        The images are read before this returns, so that errors of images are raised here. The complete
        answer is the stream's ``answer`` afterwards.
        """
        messages = self.conversation(prompt, images, history, system, image_folder=image_folder)
        sample = self._sample(messages, num_patches_list, Budget(max_tiles, select, select_tiles))
        generation = self._submit(sample, with_logprobs(stop=stop, **generation_options))
        return AnswerStream(generation, lambda done: self._answer(messages, sample, done))

    def generate(
        self,
        conversations: Sequence[Sequence[Turn]],
        *,
        batch_size: int | None = None,
        max_tiles: int | None = None,
        select: str | None = None,
        select_tiles: int = SELECT_TILES,
        stop: str | Sequence[str] = (),
        **generation_options: Any,
    ) -> list[Answer]:
        """Answer several conversations, each ending with a turn of the user, and return the answers in order.

        Greedy answers do not depend on the other conversations in the batch (exactly in float32).

        Args:
            conversations: messages, or turns of ``role`` and ``content``, with their images.
            batch_size: most conversations at a time; None takes all at once.
            max_tiles, select, select_tiles: as of :meth:`chat`.
            stop: a string, or strings, that end an answer before their first occurrence, in addition to
                those of the template.
            **generation_options: options of the answer, see :class:`SamplingParams`.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, got {batch_size}")
        params = SamplingParams.of(stop=stop, **generation_options)
        budget = Budget(max_tiles, select, select_tiles)
        most = batch_size or 2 * self.engine.scheduler.max_slots
        prompts = (
            (turns, self._sample(turns, budget=budget), params)
            for turns in map(as_messages, conversations)
        )
        return list(self.answers(prompts, in_flight=most))

    def answers(
        self,
        prompts: Iterable[tuple[tuple[Message, ...], Sample, SamplingParams]],
        *,
        in_flight: int,
    ) -> Iterator[Answer]:
        """Yield the answers to preprocessed prompts, in order.

        Args:
            prompts: the messages of each conversation, the sample that ``processor(messages,
                add_generation_prompt=True)`` returns for them, and the options of the answer. The iterable
                is consumed when needed.
            in_flight: the most conversations whose images are in memory at a time.
        """
        asked = deque[tuple[tuple[Message, ...], Sample, Generation]]()
        try:
            for messages, sample, params in prompts:
                if len(asked) >= in_flight:
                    yield self._oldest(asked)
                asked.append((messages, sample, self._submit(sample, params)))
            while asked:
                yield self._oldest(asked)
        finally:
            for *_, generation in asked:
                generation.cancel()

    def _oldest(self, asked: deque[tuple[tuple[Message, ...], Sample, Generation]]) -> Answer:
        messages, sample, generation = asked[0]
        answer = self._answer(messages, sample, generation.wait())
        asked.popleft()
        return answer

    def generate_ids(
        self,
        prompts: Sequence[TokenPrompt],
        *,
        stop_ids: Sequence[int] | None = None,
        ended: Callable[[list[int]], bool] | None = None,
        **generation_options: Any,
    ) -> list[list[int]]:
        """Return the new ids of each prompt, including the id that ended the answer.

        Args:
            prompts: ids, pixels and plans of each prompt, as the processor makes them.
            stop_ids: ids that end an answer; None takes those of template and tokenizer.
            ended: returns for the ids of an answer so far whether it ends there, in addition to ``stop_ids``.
            **generation_options: options of the answers.
        """
        params = SamplingParams.of(stop_ids=stop_ids, **generation_options)
        asked = [
            self.engine.submit(Request(ids, pixels, tuple(plans), params, ended))
            for ids, pixels, plans in prompts
        ]
        return [generation.wait().ids for generation in asked]

    def request(
        self,
        messages: Sequence[Turn],
        *,
        continue_final_message: bool = False,
        max_tiles: int | None = None,
        select: str | None = None,
        select_tiles: int = SELECT_TILES,
        **options: Any,
    ) -> Request:
        """Return the request to the engine for a conversation.

        Args:
            messages: the conversation, with its images.
            continue_final_message: whether the answer continues the last message, which is the assistant's.
            max_tiles, select, select_tiles: as of :meth:`chat`.
            **options: options of the answer.
        """
        encode = encode_open if continue_final_message else encode_prompt
        budget = Budget(max_tiles, select, select_tiles)
        sample = self._sample(as_messages(messages), budget=budget, encode=encode)
        return self._request(sample, SamplingParams.of(**options))

    def submit(self, messages: Sequence[Turn], **options: Any) -> Generation:
        """Submit a conversation to the engine, and return its answer before it is generated.

        The arguments are those of :meth:`request`.
        """
        return self.engine.submit(self.request(messages, **options))

    def likelihood(
        self, messages: Sequence[Turn], options: Sequence[str], *, per_token: bool = False
    ) -> list[float]:
        """Return the log-probability of each of ``options`` as the text of the answer to ``messages``.

        It is the sum over the ids of the text, or with ``per_token`` the mean, without the end marker: the
        probability that the answer begins with the text, as in lm-evaluation-harness (Gao et al.). The prompt
        is read once.
        """
        asked = as_messages(messages)
        found = []
        for option in options:
            if not option:
                raise ValueError("options must not be empty, got ''")
            sample, count = open_ended(self.processor, (*asked, Message("assistant", option)))
            request = self._request(sample, SamplingParams())
            values = self.engine.score(request, count)
            found.append(sum(values) / len(values) if per_token else sum(values))
        return found

    @torch.inference_mode()
    def logits(self, messages: Sequence[Turn]) -> Float[Tensor, "s v"]:
        """Return float32 logits of every position of the prompt of ``messages``, from one forward pass.

        Those of the last position belong to the first id of the answer.
        """
        sample = self._sample(as_messages(messages))
        batch = collate([sample], pad_id=0).to(next(self.model.parameters()).device)
        output = self.model(
            batch.input_ids, batch.pixels, batch.plans, feature_cache=self.engine.feature_cache
        )
        logits: Tensor = output.logits[0].float()
        return logits

    def attention(
        self,
        messages: str | Sequence[Turn],
        images: Images = None,
        *,
        answer: str | None = None,
        layers: Sequence[int] | None = None,
        max_tiles: int | None = None,
        **generation_options: Any,
    ) -> tuple[AttentionMap, ...]:
        """Return what ``answer``, which is generated unless given, attends to in each image.

        Args:
            messages: a question about ``images``, or a conversation with its images.
            layers: indices of the LLM's layers, all of them if ``None``.
        """
        check_attention(self.model)
        if isinstance(messages, str):
            turns = self.conversation(messages, images)
        elif images is not None:
            raise ValueError("images must be None where a conversation holds its images")
        else:
            turns = as_messages(messages)
        if answer is None:
            answer = self.generate([turns], max_tiles=max_tiles, **generation_options)[0].text
        return attention_maps(self.model, self.processor.limited(max_tiles), turns, answer, layers)

    def clear_caches(self) -> None:
        """Free the visual tokens and the prompts that the engine keeps in memory."""
        self.engine.clear_caches()

    def conversation(
        self,
        prompt: Prompt,
        images: Images = None,
        history: History | None = None,
        system: str | None = None,
        *,
        image_folder: str | Path | None = None,
    ) -> tuple[Message, ...]:
        """Return the messages of a question; the arguments are those of :meth:`chat`."""
        boxes = self.template.boxes
        return build_messages(
            prompt, images, history, system, boxes=boxes, image_folder=image_folder
        )

    def _sample(
        self,
        messages: Sequence[Message],
        num_patches_list: Sequence[int] | None = None,
        budget: Budget = WHOLE,
        encode: Encode = encode_prompt,
    ) -> Sample:
        processor = self.processor.limited(budget.max_tiles)
        sample = encode(processor, messages)
        check_tiles(sample.plans, num_patches_list)
        return select_windows(self.engine, processor, messages, sample, encode, budget)

    def _request(self, sample: Sample, params: SamplingParams) -> Request:
        """The request of a sample, ended by the template's stop strings too."""
        stop = (*self.template.stop, *params.stop)
        return Request(sample.ids, sample.pixels, sample.plans, replace(params, stop=stop))

    def _submit(self, sample: Sample, params: SamplingParams) -> Generation:
        return self.engine.submit(self._request(sample, params))

    def _answer(
        self, messages: tuple[Message, ...], sample: Sample, generation: Generation
    ) -> Answer:
        return build_answer(
            messages,
            sample,
            generation,
            template=self.template,
            exif=self.tiler.exif,
            image_cache=self.engine.image_cache,
            familiarity=self.familiarity,
            calibration=self.calibration,
        )
