"""What values the keys of the commands take, said once for each key and checked before a command begins.

The keys of parts (``tiler.max_tiles``) are checked against the annotations of their class, in
:mod:`hdvl.keys`, and by the class itself; ``device`` and ``dtype`` in :mod:`hdvl.inputs`. All other keys
are listed here: :data:`KEYS` has those that mean
the same in every command, and :data:`OF_COMMAND` those that differ in one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a key takes.

    Attributes:
        said: the allowed values in words, as the end of "KEY must be".
        fits: whether a value is allowed.
        whole: whether a number such as 1e3, which YAML reads as 1000.0, becomes the integer.
    """

    said: str
    fits: Callable[[Any], bool]
    whole: bool = False

    def or_null(self) -> "Kind":
        """The same values, and null."""
        return Kind(
            f"{self.said}, or null", lambda value: value is None or self.fits(value), self.whole
        )

    def or_list(self) -> "Kind":
        """The same values, and lists of them that are not empty."""
        return Kind(
            f"{self.said}, or a list of these",
            lambda value: self.fits(value) or (_is_list(value, self.fits) and bool(value)),
        )


def number(
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> Kind:
    """Finite numbers, or whole numbers, in a range."""
    if least > -math.inf and most < math.inf:
        ranges = f"from {least} to {most}"
    else:
        bounds = {
            f"above {above}": above > -math.inf,
            f"of at least {least}": least > -math.inf,
            f"at most {most}": most < math.inf,
        }
        ranges = " and ".join(text for text, given in bounds.items() if given)
    said = f"a {'whole ' if whole else ''}number {ranges}".rstrip()

    def fits(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not math.isfinite(value) or (whole and value != int(value)):
            return False
        return above < value and least <= value <= most

    return Kind(said, fits, whole)


def one_of(*names: str) -> Kind:
    """One of some names."""
    return Kind(f"one of {', '.join(names)}", lambda value: value in names)


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = number(least=1, whole=True)
FROM_ZERO = number(least=0, whole=True)
SECONDS = number(above=0)
SEED = number(least=0, most=2**32 - 1, whole=True)
TEXT = Kind("text", _is_text)
ANY_TEXT = Kind("text", lambda value: isinstance(value, str))
PATH = Kind("a path", _is_path)
PATHS = Kind("a list of paths, such as [a,b]", lambda value: _is_list(value, _is_path))
TEXTS = Kind("text or a list of texts", lambda value: _is_text(value) or _is_list(value, _is_text))
MAPPING = Kind("a mapping, such as {name: value}", lambda value: isinstance(value, Mapping))
URL = Kind(
    "an address that begins with http:// or https://",
    lambda value: _is_text(value) and value.startswith(("http://", "https://")),
)
DEVICES = Kind(
    "auto or a mapping of modules to devices",
    lambda value: value == "auto" or isinstance(value, Mapping),
)

KEYS: Mapping[str, Kind] = {
    # inputs and outputs
    **dict.fromkeys(("checkpoint", "data_dir", "image_folder", "offload_folder"), PATH.or_null()),
    **dict.fromkeys(("inputs", "outputs", "out", "contact", "attention"), PATH.or_null()),
    **dict.fromkeys(("predictions", "questions", "api_keys_file", "other", "to"), PATH.or_null()),
    **dict.fromkeys(("page", "report", "quarantine", "folder"), PATH),
    "image": PATH.or_list().or_null(),
    "runs": PATHS.or_null(),
    "allow": TEXTS,
    # the model
    "system": ANY_TEXT.or_null(),
    "device_map": DEVICES.or_null(),
    "max_memory": MAPPING.or_null(),
    "quantisation": one_of("int8", "nf4").or_null(),
    "max_length": COUNT.or_null(),
    "max_tiles": COUNT.or_null(),
    "select": one_of("thumbnail").or_null(),
    "select_tiles": COUNT,
    "model.encode_chunk": COUNT.or_null(),
    "model.image_token_id": FROM_ZERO.or_null(),
    "seed": SEED,
    # questions and answers
    "prompt": ANY_TEXT.or_null(),
    "stream": FLAG,
    "num_workers": FROM_ZERO,
    "max_bad_rows": FROM_ZERO,
    "max_new_tokens": COUNT,
    "generation.max_new_tokens": COUNT,
    "generation.do_sample": FLAG.or_null(),
    "generation.temperature": number(least=0).or_null(),
    "generation.top_p": number(above=0, most=1).or_null(),
    "generation.top_k": FROM_ZERO.or_null(),
    "generation.stop": TEXTS,
    "generation.repetition_penalty": number(above=0),
    "engine.max_slots": COUNT,
    "engine.max_tokens": COUNT.or_null(),
    "engine.prefill_chunk": COUNT,
    "engine.image_cache_bytes": FROM_ZERO,
    "engine.image_cache_folder": PATH.or_null(),
    "engine.image_cache_folder_bytes": COUNT,
    "engine.prefix_cache_bytes": FROM_ZERO,
    "engine.gather_seconds": number(least=0),
    # evaluation
    "limit": COUNT.or_null(),
    "partial": FLAG,
    "official_random_seed": FROM_ZERO.or_null(),
    "failures": FROM_ZERO,
    "checksums": FLAG,
    "most": FROM_ZERO,
    "judge.url": URL.or_null(),
    "judge.model": TEXT.or_null(),
    "judge.key_variable": TEXT,
    "judge.record": PATH.or_null(),
    "judge.replay": PATH.or_null(),
    "judge.settings": MAPPING,
    "judge.num_concurrent": COUNT,
    "judge.timeout": SECONDS,
    # the server
    "host": TEXT,
    "port": number(least=0, most=65535, whole=True),
    "settings.max_waiting": FROM_ZERO,
    **{
        f"settings.{name}": COUNT
        for name in (
            *("max_connections", "max_new_tokens", "max_choices", "max_tiles", "max_images"),
            "max_image_pixels",
        )
    },
    **dict.fromkeys(("settings.max_body_mb", "settings.max_image_mb"), number(above=0)),
    **{
        f"settings.{name}_seconds": SECONDS
        for name in ("header", "body", "send", "prepare", "request", "fetch", "drain")
    },
    **{f"settings.{name}": TEXTS for name in ("allowed_hosts", "allowed_folders", "served_hosts")},
    "settings.low_detail_tiles": COUNT.or_null(),
    # drawings and tables
    "draw_size": COUNT,
    "metrics": TEXTS.or_null(),
    "last": number(least=0, most=1),
    # conversion and export
    "max_shard": COUNT,
    "from": TEXT.or_null(),
    "path": Kind(
        "a path or a mapping of parts to paths", lambda v: _is_text(v) or isinstance(v, Mapping)
    ).or_null(),
    "format": one_of("transformers", "vllm"),
    "overrides": MAPPING.or_null(),
    "atol": number(least=0),
    "logits_atol": number(least=0),
    # estimates and checks of data
    "survey": FROM_ZERO.or_null(),
    "gpus": COUNT,
    "measure": FLAG,
    "peak.flops": number(above=0),
    "peak.memory": number(above=0).or_null(),
    "peak.bandwidth": number(above=0),
    "peak.utilisation": number(above=0, most=1),
    "count": COUNT,
    "batches": COUNT,
    "leave_out": TEXTS,
}
"""The keys that mean the same in every command, and what they take."""

OF_COMMAND: Mapping[str, Mapping[str, Kind]] = {
    "evaluate": {"outputs": PATH},
    "serve": {"checkpoint": PATH.or_list().or_null(), "page": FLAG},
    "tile": {"image": PATH.or_null(), "out": PATH},
    "demo": {"checkpoint": PATH},
    "export": {"max_shard": COUNT.or_null()},
}
"""What keys of the same name take in one command only."""


def kinds_of(command: str) -> dict[str, Kind]:
    """What the keys of a command take, also keys that it does not have."""
    return {**KEYS, **OF_COMMAND.get(command, {})}


def checked(command: str, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a command with whole numbers as integers, after its values were checked.

    Args:
        command: the command, with ``_`` instead of spaces.
        plain: its config, as plain data. Values that are interpolations are not checked.

    Raises:
        ValueError: a value is not allowed.
    """
    found = dict(plain)
    for key, kind in kinds_of(command).items():
        *above, last = key.split(".")
        node = _section(found, above)
        if node is None or last not in node:
            continue
        value = node[last]
        if isinstance(value, str) and "${" in value:
            continue
        if not kind.fits(value):
            raise ValueError(f"{key} must be {kind.said}, got {shown(value)}")
        if kind.whole and isinstance(value, float):
            node[last] = int(value)
    return found


def _section(found: dict[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The mapping at ``names``, copied into ``found``; ``None`` if there is none.

    Raises:
        ValueError: it is there, but no mapping.
    """
    node = found
    for name in names:
        if name not in node:
            return None
        if not isinstance(node[name], Mapping):
            inner = next(key for key in KEYS if key.startswith(f"{name}."))
            raise ValueError(
                f"{name} must be a mapping, got {shown(node[name])}; set its keys, such as {inner}"
            )
        node[name] = dict(node[name])
        node = node[name]
    return node


def shown(value: Any) -> str:
    """A value as messages show it: as it is typed, and shortened."""
    names = {None: "null", True: "true", False: "false"}
    text = names[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
