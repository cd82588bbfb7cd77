"""Requests of OpenAI's API, with additional options of hdvl and vLLM.

Fields that are not listed are ignored, since clients send fields of other servers; the log names each of them
once. Fields of OpenAI's API that change the answer and are not supported are refused.
"""

import logging
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hdvl.decoding import Guided
from hdvl.serving.errors import bad_request

logger = logging.getLogger("hdvl.serving")

UNSUPPORTED = {
    "tools": "tools are not supported",
    "functions": "functions are not supported",
    "audio": "answers in audio are not supported",
    "prediction": "predicted outputs are not supported",
    "web_search_options": "searching the web is not supported",
    "suffix": "text behind the answer is not supported",
    "echo": "repeating the prompt is not supported",
    "best_of": "best_of is not supported; ask for n answers",
    "use_beam_search": "answers are sampled or greedy, there is no beam search",
}
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "use_beam_search": (False,),
}
_MAX_REPORTED = 100
_reported: set[str] = set()

Stop = Annotated[list[str], Field(max_length=4)] | str
Request = TypeVar("Request", bound="Lenient")


class Lenient(BaseModel):
    """Keeps unknown fields, and takes numbers and strings only as what they are."""

    model_config = ConfigDict(extra="allow", strict=True)


class StreamOptions(Lenient):
    """Options of a stream. ``include_usage`` asks for the numbers of tokens in a last chunk."""

    include_usage: bool | None = None


class JSONSchema(Lenient):
    """A named JSON schema."""

    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Lenient):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None

    def guided(self) -> Guided | None:
        """What the engine is to keep to; ``None`` for free text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Guided(json_schema={"type": "object"})
        if self.json_schema is None or self.json_schema.schema_ is None:
            raise bad_request(
                "response_format of type json_schema must have json_schema.schema",
                "response_format",
            )
        return Guided(json_schema=self.json_schema.schema_)


class SamplingFields(Lenient):
    """The options that both endpoints share. ``None`` means that an option is not given."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: Stop | None = None
    response_format: ResponseFormat | None = None
    guided_regex: str | None = None
    max_tiles: int | None = None
    select: Literal["thumbnail"] | None = None
    select_tiles: int | None = None
    modalities: list[str] | None = None

    @property
    def new_tokens(self) -> int | None:
        """The most ids of an answer."""
        return self.max_tokens

    @property
    def top_logprobs_count(self) -> int | None:
        """How many alternatives of each id are reported; ``None`` for no report."""
        return None

    def options(self) -> dict[str, Any]:
        """The options of the engine; see :class:`hdvl.decoding.SamplingParams`.

        Raises:
            APIError: an option is out of its range.
        """
        names = (
            *("temperature", "top_p", "top_k", "min_p", "seed"),
            *("repetition_penalty", "frequency_penalty", "presence_penalty"),
        )
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        options["top_k"] = 0 if self.top_k == -1 else self.top_k  # vLLM's word for all
        options |= {"max_new_tokens": self.new_tokens, "logprobs": self.top_logprobs_count}
        options["stop"] = self.stop
        if self.logit_bias is not None:
            options["logit_bias"] = _ids(self.logit_bias)
        guided = None if self.response_format is None else self.response_format.guided()
        if self.guided_regex is not None:
            guided = Guided(regex=self.guided_regex)
        return {
            name: value
            for name, value in {**options, "guided": guided}.items()
            if value is not None
        }


class ChatCompletionRequest(SamplingFields):
    """A request to ``/v1/chat/completions``."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    continue_final_message: bool | None = None
    confidence: bool | None = None

    @property
    def new_tokens(self) -> int | None:
        """The most ids of an answer."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top_logprobs_count(self) -> int | None:
        """How many alternatives of each id are reported; ``None`` for no report."""
        if self.top_logprobs is not None and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs=true", "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs or self.confidence else None


class CompletionRequest(SamplingFields):
    """A request to ``/v1/completions``: one text, or several."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    logprobs: int | None = None

    @property
    def top_logprobs_count(self) -> int | None:
        """How many alternatives of each id are reported; ``None`` for no report."""
        return self.logprobs


class TilesRequest(Lenient):
    """A request to ``/v1/tiles``: how images would be cut, and what they would take."""

    model: str | None = None
    images: list[str] = Field(min_length=1)
    max_tiles: int | None = None


def parse(kind: type[Request], fields: Any) -> Request:
    """The request of a body that was decoded from JSON.

    Raises:
        APIError: a field is of another kind or out of its range, or asks for what is not supported.
    """
    if not isinstance(fields, dict):
        raise bad_request(f"the body must be a JSON object, got {type(fields).__name__}")
    for name, reason in UNSUPPORTED.items():
        if fields.get(name) is not None and fields[name] not in _HARMLESS.get(name, ()):
            raise bad_request(f"{reason}; leave {name} out", name, "unsupported_parameter")
    try:
        request = kind.model_validate(fields)
    except ValidationError as error:
        raise _first_fault(error) from None
    if "audio" in (getattr(request, "modalities", None) or ()):
        raise bad_request(
            "answers in audio are not supported", "modalities", "unsupported_parameter"
        )
    for name in set(request.model_extra or ()) - set(UNSUPPORTED) - _reported:
        if len(_reported) < _MAX_REPORTED:
            _reported.add(name)
            logger.warning("field %.100r of requests is not known and is ignored", name)
    return request


def _first_fault(error: ValidationError) -> Exception:
    fault = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("constrained"))
    given = "" if fault["type"] == "missing" else f", got {fault['input']!r:.100}"
    return bad_request(
        f"{place}: {fault['msg']}{given}", str(fault["loc"][0]) if fault["loc"] else None
    )


def _ids(bias: dict[str, float]) -> dict[int, float]:
    wrong = [token for token in bias if not re.fullmatch(r"\d{1,9}", token, re.ASCII)]
    if wrong:
        raise bad_request(f"keys of logit_bias must be ids, got {wrong[:5]!r:.100}", "logit_bias")
    return {int(token): value for token, value in bias.items()}
