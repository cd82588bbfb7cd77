"""What the endpoints that generate do: from a parsed request to answers, whole or as a stream."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse

from hdvl.inference.generation import Generation
from hdvl.inference.generation import Request as Question
from hdvl.serving.answers import ChatForm, TextForm, usage
from hdvl.serving.conversations import low_detail, read_messages
from hdvl.serving.errors import APIError, bad_request
from hdvl.serving.schema import ChatCompletionRequest, CompletionRequest, SamplingFields
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
        messages = await asyncio.to_thread(read_messages, asked.messages, self.settings)
        going_on = bool(asked.continue_final_message)
        last = messages[-1].role
        if last != ("assistant" if going_on else "user"):
            raise bad_request(
                "messages must end with the user's, or with the assistant's and "
                f"continue_final_message=true, got {last}",
                "messages",
            )
        low = self.settings.low_detail_tiles
        if low is not None and asked.max_tiles is None and low_detail(asked.messages):
            options["max_tiles"] = low
        question = await served.prepare(messages, options, continue_final_message=going_on)
        form = ChatForm(served.id, served.pipe, logprobs=asked.top_logprobs_count is not None)
        return await self._answer(request, asked, served, [question], form)

    async def complete(self, request: Request, asked: CompletionRequest) -> Response:
        """Go on with a text, or with several."""
        served, options = self.model_of(asked.model), self._options(asked)
        texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        questions = [await served.prepare_text(text, options) for text in texts]
        form = TextForm(served.id, served.pipe, logprobs=asked.top_logprobs_count is not None)
        return await self._answer(request, asked, served, questions, form)

    def _options(self, asked: SamplingFields) -> dict[str, Any]:
        settings, options = self.settings, asked.options()
        bounds = {
            "n": (asked.n, settings.max_choices),
            "max_tokens": (asked.new_tokens, settings.max_new_tokens),
        }
        for name, (value, most) in bounds.items():
            if value is not None and not 1 <= value <= most:
                raise bad_request(f"{name} must be between 1 and {most}, got {value}", name)
        if asked.max_tiles is not None:
            if asked.max_tiles < 1:
                raise bad_request(
                    f"max_tiles must be at least 1, got {asked.max_tiles}", "max_tiles"
                )
            options["max_tiles"] = asked.max_tiles
        return options

    async def _answer(
        self,
        request: Request,
        asked: SamplingFields,
        served: ServedModel,
        questions: Sequence[Question],
        form: ChatForm,
    ) -> Response:
        generations: list[Generation] = []
        try:
            for question in questions:
                generations += served.submit(question, asked.n or 1, self.settings)
        except APIError:
            served.close(generations)
            raise
        request.state.note = {"model": served.id, "images": len(questions[0].plans)}
        if asked.stream:
            counted = bool(asked.stream_options and asked.stream_options.include_usage)
            events = self._events(request, served, generations, form, counted=counted)
            return EventSourceResponse(events, ping=PING_SECONDS, sep="\n")
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
        request: Request,
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
        finally:
            served.close(generations)
            self._note(request, generations)
        yield {"data": "[DONE]"}

    def _note(self, request: Request, generations: Sequence[Generation]) -> None:
        """Add the numbers of tokens to what the access log and the metrics say of a request."""
        numbers = usage(generations)
        request.state.note |= {
            "prompt_tokens": numbers["prompt_tokens"],
            "new_tokens": numbers["completion_tokens"],
            "cached_tokens": numbers["prompt_tokens_details"]["cached_tokens"],
            "first_token_seconds": generations[0].usage.first_token_seconds,
        }


def _event(value: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(value, ensure_ascii=False)}


async def _disconnected(request: Request) -> None:
    """Return when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
