"""Configuration keys that transformers would ignore are refused."""

import logging

import pytest

from hdvl.llms.building import _note_unused, checked_config
from hdvl.llms.transformers_config import plain_numbers


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gpt_neox", "falcon", "phi3", "gemma3_text"])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rope_thetaa", ", did you mean rope_theta?"),
        ("num_hidden_layer", ", did you mean num_hidden_layers?"),
        ("banana", "; transformers would ignore it"),
    ],
)
def test_unknown_names_are_refused(family: str, name: str, meant: str) -> None:
    with pytest.raises(
        ValueError, match=f"config of {family} has no {name}{meant}".replace("?", ".")
    ):
        checked_config({"model_type": family, name: 5})


@pytest.mark.parametrize(
    "family",
    ["llama", "gpt_bigcode", "jetmoe", "kimi_linear", "mamba", "modernbert-decoder", "zamba2"],
)
def test_what_a_configuration_writes_it_reads(family: str) -> None:
    numbers = plain_numbers(checked_config({"model_type": family}))
    assert plain_numbers(checked_config(numbers)) == numbers


def test_older_names_are_known() -> None:
    old = {"rope_theta": 5.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    rope = checked_config({"model_type": "llama", **old}).rope_parameters
    assert (rope["rope_theta"], rope["rope_type"], rope["factor"]) == (5.0, "dynamic", 2.0)


def test_families_and_values_that_transformers_does_not_know() -> None:
    with pytest.raises(
        ValueError, match="must be one of transformers, got 'qwen22', did you mean qw"
    ):
        checked_config({"model_type": "qwen22"})
    with pytest.raises(ValueError, match="config must name a model_type of transformers, got keys"):
        checked_config({"hidden_size": 3})
    with pytest.raises(
        ValueError, match="config of llama must fit transformers: Validation error for"
    ):
        checked_config({"model_type": "llama", "num_hidden_layers": "two"})


def test_a_size_that_a_family_lacks_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    _note_unused.cache_clear()
    with caplog.at_level(logging.WARNING, logger="hdvl.llms"):
        for _ in range(2):
            checked_config({"model_type": "roberta", "num_key_value_heads": 2})
    said = [record.getMessage() for record in caplog.records]
    assert said == ["config of roberta has no num_key_value_heads, which has no effect"]
