"""Every key of every command says what it takes, and other values are refused by name."""

import math
from functools import cache
from typing import Any

import pytest

from hdvl.allowed import KEYS, OF_COMMAND, PATH, checked, kinds_of
from hdvl.catalogue import entries, file_of, settable
from hdvl.config import CONF_DIR, compose, to_plain, to_unresolved
from hdvl.overrides import PATHS, typed_overrides

COMMANDS = sorted(path.stem for path in CONF_DIR.glob("*.yaml") if path.stem != "train")
ELSEWHERE = {"device", "dtype", "images", "example.image", "example.text_tokens", "example"}
"""Names, which ``hdvl.inputs`` checks, and what is no single value, which ``hdvl plan`` checks."""
FREE = {"judge.settings", "max_memory", "device_map", "overrides", "path"}
"""Keys that may be a mapping."""


def keys_of(command: str) -> list[str]:
    """The keys that are listed in the file of a command."""
    own = settable(entries(file_of("", command).read_text(encoding="utf-8")))
    return [entry.key for entry in own if entry.key not in ELSEWHERE]


@cache
def defaults(command: str) -> dict[str, Any]:
    config = compose(config_name=command)
    plain: dict[str, Any] = (to_unresolved if command == "plan" else to_plain)(config)
    return plain


def with_value(plain: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    name, _, rest = key.partition(".")
    return {**plain, name: with_value(plain[name], rest, value) if rest else value}


def value_at(plain: dict[str, Any], key: str) -> Any:
    name, _, rest = key.partition(".")
    return value_at(plain[name], rest) if rest else plain[name]


ALL = [(command, key) for command in COMMANDS for key in keys_of(command)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_says_what_it_takes(command: str) -> None:
    assert [key for key in keys_of(command) if key not in kinds_of(command)] == []


def test_no_kind_is_left_of_a_key_that_is_gone() -> None:
    assert set(KEYS) - {key for _, key in ALL} == set()
    assert {(command, key) for command, kinds in OF_COMMAND.items() for key in kinds} <= set(ALL)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_are_allowed(command: str) -> None:
    assert checked(command, defaults(command)) == defaults(command)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_values_of_another_kind_are_refused(command: str) -> None:
    plain = defaults(command)
    for key in keys_of(command):
        old = value_at(plain, key)
        wrong: list[Any] = [[[]], [1], math.inf, -math.inf, math.nan]
        wrong += [] if key in FREE else [{"a": 1}, {}]
        wrong += [1, 0, -1, 1.5, True] if isinstance(old, str) else []
        wrong += [""] if isinstance(old, str) and key != "prompt" else []
        if isinstance(old, bool):
            wrong += [0, 1, "true", "abc", None, []]
        elif isinstance(old, int | float):
            wrong += ["abc", "1", True, [], *([] if key == "survey" else [None])]
        for value in wrong:
            with pytest.raises(ValueError, match=f"^{key} must be .+, got ") as caught:
                checked(command, with_value(plain, key, value))
            assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "key", "wrong"),
    [
        ("evaluate", "limit", [0, -1, 1.5, "abc", True, []]),
        ("evaluate", "official_random_seed", [-1, 1.5, "abc", True, []]),
        ("evaluate", "max_length", [0, -1, 1.5, "abc"]),
        ("evaluate", "seed", [-1, 1.5, 2**32]),
        ("evaluate", "judge.url", ["localhost:8001/v1", 8001, True]),
        ("evaluate", "judge.timeout", [0, -1]),
        ("evaluate", "engine.max_tokens", [0, -1, 1.5, "abc"]),
        ("serve", "port", [-1, 65536, 1.5]),
        ("serve", "checkpoint", [[], [1], 5]),
        ("serve", "settings.max_waiting", [-1, 1.5]),
        ("infer", "generation.top_p", [0, -0.1, 1.1, "abc"]),
        ("infer", "generation.stop", [5, [5], None]),
        ("infer", "quantisation", ["int4", 8, True]),
        ("tile", "draw_size", [0, -1, 1.5]),
        ("compare", "last", [-0.1, 1.1]),
        ("compare", "runs", ["runs/a", 5, [5]]),
    ],
)
def test_numbers_out_of_range_are_refused(command: str, key: str, wrong: list[Any]) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match=f"^{key} must be .+, got "):
            checked(command, with_value(defaults(command), key, value))


def test_whole_numbers_may_be_written_with_an_exponent() -> None:
    plain = {"limit": 1e3, "judge": {"timeout": 1e1, "num_concurrent": 2.0}, "other": "kept"}
    found = checked("score", plain)
    assert (found["limit"], found["judge"]["num_concurrent"]) == (1000, 2)
    assert isinstance(found["limit"], int) and isinstance(found["judge"]["num_concurrent"], int)
    assert plain["judge"]["num_concurrent"] == 2.0 and found["other"] == "kept"  # type: ignore[index]


@pytest.mark.parametrize("value", [None, "abc", []])
def test_a_mapping_of_keys_cannot_be_another_value(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^judge must be a mapping, got .*judge\.url"):
        checked("score", {"judge": value})


def test_interpolations_are_left() -> None:
    assert checked("train", {"seed": "${oc.env:SEED}"}) == {"seed": "${oc.env:SEED}"}


def test_paths_are_read_as_they_are_typed() -> None:
    kinds = {key: kind for command in COMMANDS for key, kind in kinds_of(command).items()}
    paths = {
        key.rpartition(".")[2] for key, kind in kinds.items() if kind.said.startswith(PATH.said)
    }
    assert paths - {"page"} <= set(PATHS)


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_and_numbers_are_not_read_as_paths(command: str) -> None:
    for key in keys_of(command):
        kind = kinds_of(command)[key]
        values = [(True, "true"), (False, "false"), (1, "1")]
        for value, text in [pair for pair in values if kind.fits(pair[0])]:
            assert typed_overrides([f"{key}={text}"]) == [f"{key}={text}"], value
