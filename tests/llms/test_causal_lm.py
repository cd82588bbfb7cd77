"""Causal language models: build, grow, run, generate, load."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional

from hdvl.config import CONF_DIR, build
from hdvl.decoding import generate
from hdvl.llms import CausalLM, save_tokenizer
from hdvl.protocols import LLM
from tests.llms import tiny_llm


def make(model_type: str = "qwen2", **numbers: Any) -> CausalLM:
    return tiny_llm.make(model_type, tokenizer_size=512, **numbers).eval()


@pytest.fixture(params=["qwen2", "llama"])
def llm(request: pytest.FixtureRequest) -> CausalLM:
    return make(request.param, tie_word_embeddings=request.param == "qwen2")


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", ["tiny", "tiny_llama", "small"])
def test_the_configured_models(name: str) -> None:
    llm = build(OmegaConf.load(CONF_DIR / "llm" / f"{name}.yaml"))
    assert isinstance(llm, LLM)
    config = llm.model.config
    assert llm.width == config.hidden_size == {"small": 192}.get(name, 64)
    assert config.model_type == {"tiny_llama": "llama", "small": "qwen3"}.get(name, "qwen2")
    assert llm.rows == len(llm.tokenizer)
    assert config._attn_implementation == "hdvl_segments"
    tied = llm.model.get_input_embeddings().weight is llm.model.get_output_embeddings().weight
    assert tied == (name != "tiny_llama")
    if name == "small":
        assert config.rope_parameters["rope_theta"] == 1e6


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3", "mistral"])
def test_shapes(model_type: str) -> None:
    llm = make(model_type)
    ids = torch.randint(0, 500, (2, 5))
    embeddings = llm.embed(ids)
    assert embeddings.shape == (2, 5, 32)
    logits = llm(embeddings)
    assert logits.shape == (2, 5, len(llm.tokenizer))
    expected = llm.model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(logits, expected)


def test_logits_of_some_positions(llm: CausalLM) -> None:
    embeddings = torch.randn(2, 6, 32)
    keep = torch.tensor([1, 4, 5])
    torch.testing.assert_close(llm(embeddings, logits_to_keep=keep), llm(embeddings)[:, keep])


def calls(llm: CausalLM, *args: Any) -> list[tuple[bool, bool]]:
    """(has a mask, is causal) of every attention."""
    seen = []
    real = functional.scaled_dot_product_attention

    def spy(*inputs: Any, **options: Any) -> Any:
        seen.append((options.get("attn_mask") is not None, options.get("is_causal", False)))
        return real(*inputs, **options)

    with patch.object(functional, "scaled_dot_product_attention", spy):
        llm(*args)
    return seen


def test_no_mask_is_built_without_padding(llm: CausalLM) -> None:
    embeddings = torch.randn(2, 6, 32)
    assert calls(llm, embeddings) == [(False, True)] * 2
    left = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    assert calls(llm, embeddings, left) == [(False, True)] * 4  # a call a row


def test_padding_on_the_right_changes_nothing_before_it(llm: CausalLM) -> None:
    short = torch.randn(1, 4, 32)
    padded = torch.cat([short, torch.randn(1, 3, 32)], dim=1)
    torch.testing.assert_close(llm(padded)[:, :4], llm(short))


def test_packed_samples_do_not_see_each_other(llm: CausalLM) -> None:
    first, second = torch.randn(1, 4, 32), torch.randn(1, 3, 32)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    packed = llm(torch.cat([first, second], dim=1), None, positions)
    apart = torch.cat([llm(first), llm(second)], dim=1)
    torch.testing.assert_close(packed, apart)


def test_new_tokens_start_as_the_mean(llm: CausalLM) -> None:
    tables = [llm.model.get_input_embeddings().weight, llm.model.get_output_embeddings().weight]
    means = [table.detach().mean(0) for table in tables]
    old, first = llm.rows, tables[0].detach().clone()
    assert llm.add_tokens(["<box>", "</box>", "<box>", "<|im_end|>"]) == 2
    assert llm.rows == len(llm.tokenizer) == old + 2
    table = llm.model.get_input_embeddings().weight
    head = llm.model.get_output_embeddings().weight
    torch.testing.assert_close(table[:old], first)
    for weight, mean in zip((table, head), means, strict=True):
        torch.testing.assert_close(weight[old:], mean.expand(2, -1))
        assert weight.requires_grad
    assert llm.model.config.vocab_size == old + 2
    assert llm(torch.randn(1, 2, 32)).shape[-1] == old + 2
    assert llm.add_tokens(["<box>"]) == 0


def test_new_tokens_are_one_id_and_survive_decoding(llm: CausalLM) -> None:
    llm.add_tokens(["<box>"])
    ids = llm.tokenizer("a<box> (1)<box>")["input_ids"]
    assert ids.count(llm.tokenizer.convert_tokens_to_ids("<box>")) == 2
    assert llm.tokenizer.decode(ids, skip_special_tokens=True) == "a<box> (1)<box>"


def test_spare_rows_are_taken_first() -> None:
    llm = make(vocab_size=600)
    assert (llm.rows, llm.add_tokens(["<box>"]), llm.rows) == (600, 1, 600)
    table = llm.model.get_input_embeddings().weight
    torch.testing.assert_close(table[512], table[:512].mean(0))
    assert not torch.equal(table[513], table[512])


def test_it_builds_without_memory() -> None:
    with torch.device("meta"):
        llm = make()
        assert llm.add_tokens(["<box>"]) == 1
    assert {parameter.device.type for parameter in llm.parameters()} == {"meta"}
    assert llm.rows == len(llm.tokenizer)


def greedy(llm: CausalLM, embeddings: torch.Tensor, count: int) -> list[int]:
    """Greedy ids by the whole forward again for each."""
    ids = []
    for _ in range(count):
        ids.append(int(llm(embeddings)[0, -1].argmax()))
        embeddings = torch.cat([embeddings, llm.embed(torch.tensor([ids[-1:]]))], dim=1)
    return ids


def test_generation_is_greedy_decoding(llm: CausalLM) -> None:
    embeddings = torch.randn(1, 7, 32)
    ids = generate(llm, embeddings, max_new_tokens=8, stop_ids=[])
    assert ids.tolist() == [greedy(llm, embeddings, 8)]


def test_a_padded_batch_generates_what_each_row_does(llm: CausalLM) -> None:
    prompts = [torch.randn(1, n, 32) * 3 for n in (3, 9, 6)]
    singles = [generate(llm, p, max_new_tokens=6, stop_ids=[])[0].tolist() for p in prompts]
    rows = [functional.pad(p, (0, 0, 9 - p.shape[1], 0)) for p in prompts]
    mask = torch.tensor([[0] * (9 - p.shape[1]) + [1] * p.shape[1] for p in prompts])
    batch = generate(llm, torch.cat(rows), mask, max_new_tokens=6, stop_ids=[])
    assert batch.tolist() == singles


def test_generation_stops_and_pads(llm: CausalLM) -> None:
    embeddings = torch.randn(2, 5, 32) * 3
    free = generate(llm, embeddings, max_new_tokens=6, stop_ids=[])
    stop = int(free[0, 1])
    ids = generate(llm, embeddings, max_new_tokens=6, stop_ids=[stop])
    end = free[0].tolist().index(stop) + 1
    assert ids[0, :end].tolist() == free[0, :end].tolist()
    assert (ids[0, end:] == llm.tokenizer.pad_token_id).all()
    eos = generate(llm, embeddings, max_new_tokens=2)
    assert torch.equal(eos, free[:, :2])


def test_an_answer_may_end_with_a_stop_string(llm: CausalLM) -> None:
    embeddings = torch.randn(2, 5, 32) * 3
    free = generate(llm, embeddings, max_new_tokens=9, stop_ids=[])
    two = free[0, 2:4].tolist()
    last = [next((n for n in range(2, 10) if row[n - 2 : n] == two), 9) for row in free.tolist()]

    def ended(ids: list[int]) -> bool:
        return ids[-2:] == two

    ids = generate(llm, embeddings, max_new_tokens=9, ended=ended)
    assert ids.shape[1] == max(last) and last[0] <= 4
    for row, whole, end in zip(ids.tolist(), free.tolist(), last, strict=True):
        assert row[:end] == whole[:end]
    alone = generate(llm, embeddings[:1], max_new_tokens=9, ended=ended)
    assert alone.tolist() == [free[0, : last[0]].tolist()]


@pytest.mark.slow_beyond(1)
def test_sampling_and_repetition(llm: CausalLM) -> None:
    embeddings = torch.randn(1, 5, 32)
    options: dict[str, Any] = {"max_new_tokens": 12, "stop_ids": []}
    torch.manual_seed(1)
    drawn = generate(llm, embeddings, do_sample=True, temperature=5.0, **options)
    torch.manual_seed(1)
    again = generate(llm, embeddings, do_sample=True, temperature=5.0, **options)
    assert torch.equal(drawn, again)
    best = generate(llm, embeddings, **options)
    assert not torch.equal(drawn, best)
    assert torch.equal(generate(llm, embeddings, do_sample=True, top_k=1, **options), best)
    assert torch.equal(generate(llm, embeddings, do_sample=True, top_p=1e-6, **options), best)
    ids = generate(llm, embeddings, repetition_penalty=1e6, **options)[0].tolist()
    assert len(set(ids)) == len(ids)


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("option", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}])
def test_options_of_sampling_are_not_ignored(llm: CausalLM, option: dict[str, Any]) -> None:
    embeddings = torch.randn(1, 5, 32)
    torch.manual_seed(0)
    drawn = generate(llm, embeddings, max_new_tokens=8, stop_ids=[], seed=1, **option)
    torch.manual_seed(1)
    again = generate(llm, embeddings, max_new_tokens=8, stop_ids=[], seed=1, **option)
    assert torch.equal(drawn, again)
    (name,) = option
    with pytest.raises(ValueError, match=f"which {name}={option[name]} contradicts"):
        generate(llm, embeddings, do_sample=False, **option)


def test_generation_settings_of_a_checkpoint_have_no_effect(llm: CausalLM, tmp_path: Path) -> None:
    embeddings = torch.randn(1, 5, 32)
    before = generate(llm, embeddings, max_new_tokens=6, stop_ids=[])
    llm.model.save_pretrained(tmp_path)
    settings = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 50.0, "top_k": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    loaded = CausalLM.from_pretrained(str(tmp_path), tokenizer=llm.tokenizer).eval()
    assert torch.equal(generate(loaded, embeddings, max_new_tokens=6, stop_ids=[]), before)


@pytest.fixture
def folder(llm: CausalLM, tmp_path: Path) -> Iterator[Path]:
    llm.model.save_pretrained(tmp_path)
    yield tmp_path


@pytest.mark.slow_beyond(1)
def test_it_loads_from_a_folder(llm: CausalLM, folder: Path) -> None:
    save_tokenizer(llm.tokenizer, folder)
    loaded = CausalLM.from_pretrained(str(folder))
    embeddings = torch.randn(1, 4, 32)
    torch.testing.assert_close(loaded.eval()(embeddings), llm(embeddings))
    assert loaded.tokenizer.get_vocab() == llm.tokenizer.get_vocab()
    half = CausalLM.from_pretrained(str(folder), dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_weights_alone_say_what_is_missing(folder: Path) -> None:
    loaded = CausalLM.from_pretrained(str(folder))
    assert loaded.tokenizer is None
    with pytest.raises(ValueError, match="adding tokens needs a tokenizer"):
        loaded.add_tokens(["<box>"])
    with pytest.raises(ValueError, match="generate needs stop_ids"):
        generate(loaded, torch.randn(1, 2, 32))
    assert generate(loaded, torch.randn(1, 2, 32), max_new_tokens=2, stop_ids=[]).shape == (1, 2)


def test_missing_and_surplus_weights_are_listed(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.extra.weight"] = weights.pop("model.norm.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"(?s)must match.*model\.norm\.weight.*extra\.weight"):
        CausalLM.from_pretrained(str(folder))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"config must name a model_type.*\['hidden_size'\]"):
        CausalLM.from_config(config={"hidden_size": 3})
    with pytest.raises(ValueError, match="must hold the tokenizer's 512 tokens, got 100 rows"):
        make(vocab_size=100).add_tokens(["<box>"])
    with pytest.raises(ValueError, match=r"model folder must exist, got '\./nowhere'"):
        CausalLM.from_pretrained("./nowhere")
