"""How the ids of one answer are chosen: the options of a request, checked once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hdvl.sequences import one_or_several

NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
"""Values of the options of sampling that leave the model's probabilities as they are."""

MAX_LOGPROBS = 20
"""Most alternatives that are reported for an id; the limit of OpenAI's API."""


@dataclass(frozen=True)
class Guided:
    """A form that the text of an answer must have. Exactly one of the attributes is given.

    Attributes:
        regex: a regular expression that the whole text matches.
        json_schema: a JSON schema, as a mapping or as its text; ``{}`` means any JSON value. The text has
            the white space of Python's ``json.dumps`` and no other, unless the schema has options of
            llguidance: ``"x-guidance": {}`` allows any.
        grammar: a grammar in Lark's notation, as llguidance reads it.

    Raises:
        ValueError: not exactly one attribute is given.
    """

    regex: str | None = None
    json_schema: Mapping[str, Any] | str | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(given) != 1:
            raise ValueError(
                "guided must have exactly one of regex, json_schema and grammar, got "
                f"{', '.join(given) or 'none'}"
            )


@dataclass(frozen=True)
class SamplingParams:
    """The options of one answer. ``None`` means that an option is not given.

    Names and ranges are those of transformers and vLLM, with vLLM's ``max_tokens`` and
    ``stop_token_ids`` called ``max_new_tokens`` and ``stop_ids``, and ``structured_outputs`` ``guided``.

    Attributes:
        max_new_tokens: the most ids of the answer, its end marker included.
        do_sample: sample instead of using the most likely id. ``None`` samples if ``temperature`` is
            above 0, or if it is not given and ``top_p``, ``top_k`` or ``min_p`` leave ids out.
        temperature: divides the logits; 0 means the most likely id.
        top_p: sample among the most likely ids of this total probability.
        top_k: sample among this many ids; 0 for all.
        min_p: sample among the ids that have at least this share of the largest probability.
        repetition_penalty: divides the positive logits of ids that are in the answer, and multiplies
            the negative ones.
        frequency_penalty: is subtracted from the logit of an id for each time that it is in the answer.
        presence_penalty: is subtracted once from the logit of each id that is in the answer.
        logit_bias: numbers to add to the logits of ids.
        stop: strings that end the answer before their first occurrence.
        stop_ids: ids that end the answer; ``None`` for those of the template and the tokenizer.
        seed: seed of the random numbers of this request alone. Without one they come from torch's
            global generator.
        logprobs: how many of the most likely ids are reported with each new id, which itself is always
            reported; ``None`` for no report.
        guided: a form that the text must have (needs llguidance: ``pip install 'hdvl[serving]'``).

    Raises:
        TypeError: an option is of another kind.
        ValueError: an option is out of its range, or ``do_sample`` contradicts the others.
    """

    max_new_tokens: int = 256
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    stop: str | Sequence[str] = ()
    stop_ids: Sequence[int] | None = None
    seed: int | None = None
    logprobs: int | None = None
    guided: Guided | None = None

    def __post_init__(self) -> None:
        _check_kinds({field.name: getattr(self, field.name) for field in fields(self)})
        _check_ranges(self)
        object.__setattr__(self, "stop", stop_strings(self.stop))
        if self.stop_ids is not None:
            object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", dict(self.logit_bias))
        object.__setattr__(self, "do_sample", _samples(self))

    @classmethod
    def of(cls, **options: Any) -> "SamplingParams":
        """Return the parameters for the options of a call; those that are ``None`` are not given.

        Raises:
            TypeError: an option is unknown or of another kind.
            ValueError: an option is out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise TypeError(
                    f"options of an answer must be among {', '.join(known)}, got {name}"
                    + (
                        "; answers are sampled or greedy, there is no beam search"
                        if "beam" in name
                        else ""
                    )
                )
        _check_kinds(options)
        return cls(**{name: value for name, value in options.items() if value is not None})

    @property
    def plain(self) -> bool:
        """Whether the answer is made of the most likely ids, without any change of the logits."""
        return (
            not self.do_sample
            and self.repetition_penalty == 1.0
            and not (self.frequency_penalty or self.presence_penalty or self.logit_bias)
            and self.guided is None
            and self.logprobs is None
        )


_WHOLE = ("max_new_tokens", "top_k", "seed", "logprobs")
_NUMBERS = (
    *("temperature", "top_p", "min_p"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty"),
)


def _check_kinds(given: Mapping[str, Any]) -> None:
    """Check the kinds of options before anything is computed with them.

    Raises:
        TypeError: an option is of another kind.
    """
    for name in _WHOLE:
        value = given.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    for name in _NUMBERS:
        if (value := given.get(name)) is not None and not _is_number(value):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if (sample := given.get("do_sample")) is not None and not isinstance(sample, bool):
        raise TypeError(f"do_sample must be true or false, got {sample!r}")
    if (guided := given.get("guided")) is not None and not isinstance(guided, Guided):
        raise TypeError(f"guided must be a Guided, got {guided!r}")
    bias = given.get("logit_bias")
    if bias is not None and not isinstance(bias, Mapping):
        raise TypeError(f"logit_bias must map ids to numbers, got {bias!r}")
    for token, value in (bias or {}).items():
        _check_id("each id of logit_bias", token)
        if not _is_number(value):
            raise TypeError(f"logit_bias of id {token} must be a number, got {value!r}")
    for token in given.get("stop_ids") or ():
        _check_id("each of stop_ids", token)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_id(name: str, token: Any) -> None:
    if isinstance(token, bool) or not isinstance(token, int):
        raise TypeError(f"{name} must be a whole number, got {token!r}")
    if token < 0:
        raise ValueError(f"{name} must be at least 0, got {token}")


def _check_ranges(params: SamplingParams) -> None:
    least = {"max_new_tokens": 1, "top_k": 0, "logprobs": 0}
    for name, bound in least.items():
        value = getattr(params, name)
        if value is not None and value < bound:
            remark = " (0 for all)" if name == "top_k" else ""
            raise ValueError(
                f"{name} must be a whole number of at least {bound}{remark}, got {value}"
            )
    if params.seed is not None and not -(2**63) <= params.seed < 2**64:
        raise ValueError(f"seed must be a whole number of 64 bits, got {params.seed}")
    if params.logprobs is not None and params.logprobs > MAX_LOGPROBS:
        raise ValueError(f"logprobs must be at most {MAX_LOGPROBS}, got {params.logprobs}")
    if params.temperature is not None and not 0 <= params.temperature < math.inf:
        raise ValueError(f"temperature must be a number of at least 0, got {params.temperature}")
    for name in ("frequency_penalty", "presence_penalty"):
        if not math.isfinite(getattr(params, name)):
            raise ValueError(f"{name} must be a finite number, got {getattr(params, name)}")
    if not 0 <= params.min_p <= 1:
        raise ValueError(f"min_p must be between 0 and 1, got {params.min_p}")
    if not 0 < params.top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {params.top_p}")
    if not 0 < params.repetition_penalty < math.inf:
        raise ValueError(f"repetition_penalty must be above 0, got {params.repetition_penalty}")
    for token, value in (params.logit_bias or {}).items():
        if math.isnan(value):
            raise ValueError(f"logit_bias of id {token} must be a number, got {value}")


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """``stop`` as strings: one string is one stop string, not its letters.

    Raises:
        TypeError: it is neither a string nor a sequence of strings.
        ValueError: a stop string is empty.
    """
    strings = one_or_several(stop, "stop")
    if "" in strings:
        raise ValueError("stop strings must not be empty")
    return strings


def _samples(params: SamplingParams) -> bool:
    """Whether the answer is sampled, by all options together."""
    temperature, do_sample = params.temperature, params.do_sample
    narrow = {
        name: getattr(params, name)
        for name, neutral in NEUTRAL.items()
        if getattr(params, name) not in (None, neutral)
    }
    if do_sample is None:
        return temperature > 0 if temperature is not None else bool(narrow)
    if do_sample and temperature == 0:
        raise ValueError(
            "temperature=0 takes the likeliest token, which do_sample=True contradicts; give a "
            "temperature above 0, or leave do_sample out"
        )
    if not do_sample:
        ignored = ", ".join(
            f"{name}={value}"
            for name, value in narrow.items()
            if (name, value) != ("temperature", 0)
        )
        if ignored:
            raise ValueError(
                f"do_sample=False takes the likeliest token, which {ignored} contradicts; leave one out"
            )
    return do_sample
