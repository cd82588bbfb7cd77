"""Weights of 8 and 4 bits for answers: small errors, less memory, and clear refusals."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.protocols import Message
from hdvl.quantisation import quantise_llm, weights
from tests.tiny_model import tiny_node, tiny_vlm

CONVERSATION = [Message("user", "What is the total?")]


def wide(**changes: Any) -> Pipeline:
    node = tiny_node()
    node["llm"]["config"] = node["llm"]["config"] | {
        "hidden_size": 128,
        "intermediate_size": 192,
        "initializer_range": 0.05,
        **changes,
    }
    return Pipeline(model=tiny_vlm(node))


def linear_bytes(pipe: Pipeline) -> int:
    layer = pipe.model.llm.model.model.layers[0].mlp.up_proj.weight
    if hasattr(layer, "tensor_data_names"):
        return sum(
            getattr(layer, name).nbytes
            for name in layer.tensor_data_names
            if getattr(layer, name) is not None
        )
    return int(layer.nbytes)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("kind", "library", "most"), [("int8", "torchao", 0.03), ("nf4", "bitsandbytes", 0.3)]
)
def test_answers_come_from_rounded_weights(kind: str, library: str, most: float) -> None:
    pytest.importorskip(library)
    plain, rounded = wide(), wide()
    before = linear_bytes(rounded)
    quantise_llm(rounded.model.llm, kind)
    first, second = (pipe.logits(CONVERSATION) for pipe in (plain, rounded))
    error = ((first - second).norm() / first.norm()).item()
    assert 1e-4 < error < most
    assert linear_bytes(rounded) < before / (3 if kind == "int8" else 6)
    head = rounded.model.llm.embedding_layers()[0].weight
    assert torch.equal(head, plain.model.llm.embedding_layers()[0].weight)
    image = torch.zeros(40, 70, 3, dtype=torch.uint8).numpy()
    alone = rounded.chat("What is it?", image, max_new_tokens=8)
    assert alone.numbers.new_tokens > 0
    batch = rounded.generate([alone.history[:1], CONVERSATION], max_new_tokens=8)
    assert batch[0].text == alone.text


def test_kinds_and_libraries_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = wide()
    with pytest.raises(
        ValueError, match="quantisation must be one of int8, nf4 or null, got 'int4'"
    ):
        quantise_llm(pipe.model.llm, "int4")
    with pytest.raises(
        ValueError, match=r"quantisation=nf4 needs rows of a multiple of 64 .* use q"
    ):
        pytest.importorskip("bitsandbytes")
        quantise_llm(Pipeline(model=tiny_vlm()).model.llm, "nf4")
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"torchao is not installed; pip install 'hdvl\[int8"):
        quantise_llm(pipe.model.llm, "int8")


@pytest.mark.slow
def test_the_shipped_model_answers_in_every_precision() -> None:
    options: list[dict[str, str]] = [{"dtype": "bfloat16"}]
    options += [{"quantisation": "nf4"}] if find_spec("bitsandbytes") else []
    options += [{"quantisation": "int8"}] if find_spec("torchao") else []
    for chosen in options:
        pipe = load("hdvl/small", **chosen)
        answer = pipe.chat("What is the total?", "hdvl/assets/receipt.png")
        assert answer.text == "2,199.60", chosen
