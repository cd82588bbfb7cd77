"""A backend that sends rows to a server with OpenAI's API, such as ``hdvl serve``, vLLM or a hosted one."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from hdvl.backends.base import Job, Row
from hdvl.data.questions import Questions
from hdvl.data.rows import SKIPPABLE, printable
from hdvl.decoding import SamplingParams
from hdvl.images import data_url
from hdvl.inference.batch import written_box, written_confidence, written_numbers
from hdvl.messages import as_turn


class OpenAIBackend:
    """A running server with OpenAI's API.

    The ``openai`` client sends the requests. It waits as long as the server's ``Retry-After`` says, up to two
    minutes, and else a little longer each time.

    Args:
        url: the address that paths such as ``/chat/completions`` are appended to.
        model: the name of the model; ``None`` for the only one that the server has.
        key_variable: the environment variable that holds the key.
        concurrency: the largest number of concurrent requests.
        tries: the largest number of tries of a request that fails temporarily.
        timeout: the seconds that one try may take.
        fields: further fields of each request; a field that is ``None`` is removed.

    Raises:
        ValueError: a number is out of its range, or ``url`` is not a URL.
    """

    runs_model = False

    def __init__(
        self,
        *,
        url: str,
        model: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        tries: int = 6,
        timeout: float = 600,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"engine.url must begin with http:// or https://, got {url!r}")
        for name, value in (("concurrency", concurrency), ("tries", tries), ("timeout", timeout)):
            if value <= 0:
                raise ValueError(f"engine.{name} must be above 0, got {value}")
        self.url, self.model, self.key_variable = url, model, key_variable
        self.concurrency, self.tries, self.timeout = concurrency, tries, timeout
        self.fields = dict(fields or {})

    def _client(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                "engine=openai needs the client of OpenAI; install it with: pip install 'hdvl[openai]'"
            ) from error
        return openai.OpenAI(
            base_url=self.url,
            api_key=os.environ.get(self.key_variable) or "none",  # the client requires a key
            max_retries=self.tries - 1,
            timeout=self.timeout,
        )

    def identity(self) -> dict[str, Any]:
        """The model and the fields of requests; the server may have moved to another address."""
        if self.model is None:
            with self._client() as client:
                self.model = self._only_model(client)
        return {"model": self.model, "fields": self.fields}

    def _only_model(self, client: Any) -> str:
        with _Refusals(self):
            names = [str(model.id) for model in client.models.list().data]
        if len(names) != 1:
            raise ValueError(
                f"engine.model must be one of the models of {self.url}: {', '.join(names) or 'it has none'}"
            )
        return names[0]

    def hit_rate(self) -> float | None:
        """Unknown, since the server has the cache."""
        return None

    def rows(self, job: Job) -> Iterator[Row]:
        """Yield each row when its answer is there.

        Raises:
            ConnectionError: the server cannot be reached.
            ValueError: the server refuses the key or does not have the model.
        """
        identity = self.identity()
        options = {**options_of(job.cfg), **self.fields, "model": identity["model"]}
        seed = job.cfg["seed"]
        numbers = iter(job.remaining)
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="asking")
        with self._client() as client:

            def ask(number: int) -> Row:
                sampled = {"seed": seed + number} if options.get("temperature") else {}
                return self._row(client, job.questions, number, {**sampled, **options})

            try:
                waiting = {pool.submit(ask, one) for one in islice(numbers, 2 * self.concurrency)}
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    waiting |= {pool.submit(ask, one) for one in islice(numbers, len(done))}
                    yield from _in_order(done)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _row(self, client: Any, questions: Questions, number: int, options: dict[str, Any]) -> Row:
        import openai

        fields: dict[str, Any] = {}
        try:
            fields = questions.describe(number)
            turns = [as_turn(message, data_url) for message in questions[number]]
            images = sum(len(message.images) for message in questions[number])
        except SKIPPABLE as error:
            return _bad(questions, number, fields, str(error))
        body = {name: value for name, value in options.items() if value is not None}
        try:
            with _Refusals(self):
                said = client.chat.completions.create(
                    model=body.pop("model"), messages=turns, extra_body=body
                )
        except (openai.APIStatusError, openai.APITimeoutError) as error:
            return _bad(questions, number, fields, f"the server says: {_error_message(error)}")
        try:
            answer = _answer_fields(said)
        except (TypeError, ValueError, AttributeError) as error:
            reason = f"the server gave boxes, images or a confidence of an unknown form: {error}"
            return _bad(questions, number, fields, reason)
        if answer is None:
            return _bad(questions, number, fields, "the server gave an answer without text")
        new = int(answer["numbers"].get("new_tokens", 0))
        return Row(number, {**fields, **answer}, images=images, new_tokens=new)


class _Refusals:
    """Context that converts errors which concern all rows to errors that name the setting to change."""

    def __init__(self, backend: OpenAIBackend) -> None:
        self.backend = backend

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import openai

        url, again = self.backend.url, "run the same command to continue"
        if isinstance(error, openai.APIConnectionError):
            if not isinstance(error, openai.APITimeoutError):
                reason = error.__cause__ or error
                raise ConnectionError(
                    f"the server at engine.url={url} cannot be reached: {reason}; start it, and {again}"
                ) from error
        elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            raise ValueError(
                f"the server at engine.url={url} refuses the key in {self.backend.key_variable}: "
                f"{_error_message(error)}"
            ) from error
        elif isinstance(error, openai.NotFoundError):
            raise ValueError(
                f"the server at engine.url={url} does not have engine.model={self.backend.model}, or not "
                f"this path: {_error_message(error)}"
            ) from error
        elif isinstance(error, openai.RateLimitError):
            raise ConnectionError(
                f"the server at engine.url={url} accepted no request in {self.backend.tries} tries: "
                f"{_error_message(error)}; lower engine.concurrency or raise engine.tries, and {again}"
            ) from error


def options_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request for the options of the command; extensions only where they differ."""
    params = SamplingParams.of(**cfg["generation"])
    given: dict[str, Any] = {"max_tokens": params.max_new_tokens, "temperature": 0}
    if params.do_sample:
        given["temperature"] = 1.0 if params.temperature is None else params.temperature
        given |= {"top_p": params.top_p} if params.top_p != 1 else {}
        given |= {"top_k": params.top_k} if params.top_k else {}
    given |= {"stop": list(params.stop)} if params.stop else {}
    if params.repetition_penalty != 1:
        given["repetition_penalty"] = params.repetition_penalty
    if cfg["max_tiles"] is not None:
        given["max_tiles"] = cfg["max_tiles"]
    if cfg["select"] is not None:
        given |= {"select": cfg["select"], "select_tiles": cfg["select_tiles"]}
    return given


def _in_order(done: set[Future[Row]]) -> Iterator[Row]:
    """The rows of tasks that are done; those that have an answer come before the error of another."""
    failed = [task for task in done if task.exception() is not None]
    yield from sorted((task.result() for task in done - set(failed)), key=lambda row: row.number)
    for task in failed:
        task.result()


def _bad(questions: Questions, number: int, fields: Mapping[str, Any], reason: str) -> Row:
    name = questions.name(number)
    text = reason if name in reason else f"{name}: {reason}"
    return Row.bad(number, fields, printable(" ".join(text.split())))


def _error_message(error: Any) -> str:
    """The error message of the server."""
    held = error.body if isinstance(getattr(error, "body", None), dict) else {}
    return str(held.get("message") or error)[:500]


def _answer_fields(said: Any) -> dict[str, Any] | None:
    """The answer as ``hdvl infer`` writes it, as far as the server tells; ``None`` if it has no text.

    Boxes, the images' tiles and the confidence are extensions of ``hdvl serve``.
    """
    message = said.choices[0].message if said.choices else None
    if message is None or message.content is None:
        return None
    fields: dict[str, Any] = {"answer": message.content}
    extra = message.model_extra or {}
    if "boxes" in extra:
        fields["boxes"] = [written_box(**box) for box in extra["boxes"]]
    if extra.get("malformed_boxes"):
        fields["malformed_boxes"] = extra["malformed_boxes"]
    fields["finish_reason"] = said.choices[0].finish_reason
    fields["numbers"] = {} if said.usage is None else _numbers(said.usage)
    if extra.get("confidence"):
        fields["confidence"] = written_confidence(**extra["confidence"])
    return fields


def _numbers(usage: Any) -> dict[str, int]:
    extra: dict[str, Any] = {}
    if usage.prompt_tokens_details is not None:
        extra = usage.prompt_tokens_details.model_extra or {}
    numbers = {"prompt_tokens": usage.prompt_tokens, "new_tokens": usage.completion_tokens}
    if "images" not in extra:
        return numbers
    counted = {
        name: sum(image.get(name, 0) for image in extra["images"])
        for name in ("tiles", "visual_tokens", "missing_tiles")
    }
    return written_numbers(**numbers, **counted)
