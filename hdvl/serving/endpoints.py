"""What the endpoints that generate do: from a parsed request to answers, whole or as a stream."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from hdvl.inference.asking import open_end
from hdvl.inference.generation import Generation
from hdvl.inference.generation import Request as Question
from hdvl.protocols import TilePlan, tiler_for
from hdvl.serving.answers import ChatForm, TextForm, tiles_form, usage
from hdvl.serving.conversations import check_characters, check_text, low_detail, read_messages
from hdvl.serving.errors import APIError, bad_request
from hdvl.serving.media import read_image_part
from hdvl.serving.schema import (
    ChatCompletionRequest,
    CompletionRequest,
    SamplingFields,
    TilesRequest,
)
from hdvl.serving.served import ServedModel
from hdvl.serving.settings import Settings

logger = logging.getLogger("hdvl.serving")
PING_SECONDS = 15


class Endpoints:
    """Answers requests.

    Args:
        models: the served models by name.
        settings: bounds and permissions.
    """

    def __init__(self, models: dict[str, ServedModel], settings: Settings) -> None:
        self.models, self.settings = models, settings
        self.draining = False

    def model_of(self, name: str | None) -> ServedModel:
        """The model called ``name``; the only one if a request names none.

        Raises:
            APIError: there is no such model.
        """
        known = ", ".join(self.models)
        if name is None:
            if len(self.models) > 1:
                raise bad_request(f"model must be one of {known}", "model")
            return next(iter(self.models.values()))
        if name not in self.models:
            raise APIError(
                404,
                f"the model {name!r:.200} is not served; it must be one of {known}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    async def chat(self, request: Request, asked: ChatCompletionRequest) -> Response:
        """Answer a conversation."""
        served, options = self.model_of(asked.model), self._options(asked)
        going_on, low = bool(asked.continue_final_message), self.settings.low_detail_tiles
        if low is not None and asked.max_tiles is None and low_detail(asked.messages):
            options["max_tiles"] = low
        check_text(asked.messages, self.settings)
        form = ChatForm(
            served.id,
            served.pipe,
            logprobs=bool(asked.logprobs),
            confidence=bool(asked.confidence),
        )

        def questions() -> list[Question]:
            messages = read_messages(asked.messages, self.settings)
            last = messages[-1].role
            if last != ("assistant" if going_on else "user"):
                raise bad_request(
                    "messages must end with the user's, or with the assistant's and "
                    f"continue_final_message=true, got {last}",
                    "messages",
                )
            form.opened = open_end(messages[-1].text)
            return [served.question(messages, options, continue_final_message=going_on)]

        return await self._answer(request, asked, served, questions, 1, form)

    async def complete(self, request: Request, asked: CompletionRequest) -> Response:
        """Go on with a text, or with several."""
        served, options = self.model_of(asked.model), self._options(asked)
        texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        check_characters(sum(map(len, texts)), self.settings)

        def questions() -> list[Question]:
            return [served.text_question(text, options) for text in texts]

        form = TextForm(served.id, served.pipe, logprobs=asked.top_logprobs_count is not None)
        return await self._answer(request, asked, served, questions, len(texts), form)

    async def tiles(self, request: Request, asked: TilesRequest) -> Response:
        """How images would be cut, and how many tokens they would take."""
        served, settings = self.model_of(asked.model), self.settings
        self._check_tiles(asked.max_tiles)
        if len(asked.images) > settings.max_images:
            raise bad_request(f"a request must hold at most {settings.max_images} images", "images")

        def run() -> list[tuple[TilePlan, int]]:
            processor = served.pipe.processor.limited(asked.max_tiles)
            tiler = tiler_for(processor.tiler, len(asked.images))
            images = [read_image_part({"image_url": url}, settings) for url in asked.images]
            plans = [tiler(image).plan for image in images]
            return [(plan, processor.token_count(plan)) for plan in plans]

        return JSONResponse(tiles_form(await served.in_thread(run, settings.prepare_seconds)))

    def _options(self, asked: SamplingFields) -> dict[str, Any]:
        settings, options = self.settings, asked.options()
        self._check_tiles(asked.max_tiles)
        bounds = {
            "n": (asked.n, settings.max_choices),
            "max_tokens": (asked.new_tokens, settings.max_new_tokens),
        }
        for name, (value, most) in bounds.items():
            if value is not None and not 1 <= value <= most:
                raise bad_request(f"{name} must be between 1 and {most}, got {value}", name)
        for name in ("max_tiles", "select", "select_tiles"):
            if getattr(asked, name) is not None:
                options[name] = getattr(asked, name)
        return {**_defaults(settings.defaults, options), **options}

    def _check_tiles(self, max_tiles: int | None) -> None:
        most = self.settings.max_tiles
        if max_tiles is not None and not 1 <= max_tiles <= most:
            least = "at least 1" if max_tiles < 1 else f"at most {most} on this server"
            raise bad_request(f"max_tiles must be {least}, got {max_tiles}", "max_tiles")

    async def _answer(
        self,
        request: Request,
        asked: SamplingFields,
        served: ServedModel,
        questions: Callable[[], Sequence[Question]],
        count: int,
        form: ChatForm,
    ) -> Response:
        generations = await served.submit(questions, count, asked.n or 1, self.settings)
        request.state.note = {"model": served.id, "images": len(generations[0].request.plans)}
        if asked.stream:
            counted = bool(asked.stream_options and asked.stream_options.include_usage)

            def ended() -> None:
                served.close(generations)
                self._note(request, generations)

            events = self._events(served, generations, form, counted=counted)
            return _Stream(
                events,
                ping=PING_SECONDS,
                sep="\n",
                send_timeout=self.settings.send_seconds,
                ended=ended,
            )
        try:
            await self._unless_gone(request, served, generations)
            self._note(request, generations)
            return JSONResponse(form.whole(generations))
        finally:
            served.close(generations)

    async def _unless_gone(
        self, request: Request, served: ServedModel, generations: Sequence[Generation]
    ) -> None:
        """Wait for the answers; a client that hangs up ends them."""
        answers = asyncio.ensure_future(served.wait(generations, self.settings.request_seconds))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait([answers, gone], return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                raise APIError(499, "the client hung up")
            answers.result()
        finally:
            for task in (answers, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, APIError):
                    await task

    async def _events(
        self,
        served: ServedModel,
        generations: Sequence[Generation],
        form: ChatForm,
        *,
        counted: bool,
    ) -> AsyncIterator[dict[str, str]]:
        """The events of a stream; an error in its middle is an event too."""
        try:
            for index in range(len(generations)):
                first = form.first(index)
                if first is not None:
                    yield _event(first)
            seconds = self.settings.request_seconds
            async for index, delta, done in served.deltas(generations, seconds):
                if delta is not None and (delta.text or form.logprobs):
                    yield _event(form.chunk(index, delta))
                if done:
                    yield _event(form.last(index, generations[index]))
            if counted:
                yield _event(form.usage_chunk(generations))
        except APIError as error:
            yield _event(error.body)
        yield {"data": "[DONE]"}

    def _note(self, request: Request, generations: Sequence[Generation]) -> None:
        """Add the numbers of tokens of a request to the access log and the metrics."""
        numbers = usage(generations)
        request.state.note |= {
            "prompt_tokens": numbers["prompt_tokens"],
            "new_tokens": numbers["completion_tokens"],
            "cached_tokens": numbers["prompt_tokens_details"]["cached_tokens"],
            "first_token_seconds": generations[0].usage.first_token_seconds,
        }


class _Stream(EventSourceResponse):
    """A stream that calls ``ended`` at its end, also if the client hangs up before its beginning."""

    def __init__(self, *args: Any, ended: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. One that its client does not read ends."""
        try:
            await super().__call__(scope, receive, send)
        except* SendTimeoutError:
            logger.info("a client did not read its stream, which ends")
        finally:
            self._ended()


def _defaults(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The server's options; a request that says how to sample replaces all of those that say it too."""
    sampling = {"do_sample", "temperature", "top_p", "top_k", "min_p"}
    dropped = sampling if sampling & set(given) else set()
    return {
        name: value for name, value in defaults.items() if value is not None and name not in dropped
    }


def _event(value: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(value, ensure_ascii=False)}


async def _disconnected(request: Request) -> None:
    """Return when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
