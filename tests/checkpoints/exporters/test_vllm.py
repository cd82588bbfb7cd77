"""Folders for vLLM: what is in them, that hdvl reads them too, and which models are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from hdvl.checkpoints import load_folder, save_folder
from hdvl.checkpoints.exporters import export_for_vllm
from hdvl.config import build, from_plain
from hdvl.integrations.vllm.config import HdvlConfig
from tests.llms.recurrent import Recurrent
from tests.tiny_model import NODE, tiny_folder, tiny_node

__all__ = ["tiny_folder"]

TAGS = {"before_tile": "row {row}: ", "after_windows": "\n", "after_image": "\n\n"}


def saved(node: dict[str, Any], folder: Path) -> Path:
    return save_folder(build(from_plain(node)), folder, {"model": node})


def test_the_folder_has_what_vllm_reads_and_hdvl_reads_it_too(
    tiny_folder: Path, tmp_path: Path
) -> None:
    found = export_for_vllm(tiny_folder, tmp_path / "out")
    assert (found.folder, found.architecture) == (tmp_path / "out", "HdvlForConditionalGeneration")
    own, again = load_folder(tiny_folder), load_folder(found.folder)
    first, second = own.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = json.loads((found.folder / "config.json").read_text())
    assert plain["architectures"] == ["HdvlForConditionalGeneration"]
    config = HdvlConfig.from_dict(plain)
    assert config.image_token_id == own.image_token_id
    assert config.get_text_config().architectures == ["Qwen2ForCausalLM"]
    assert config.text_config.hidden_size == own.llm.width
    assert config.text_config.vocab_size == own.llm.embedding_layers()[0].weight.shape[0]
    ends = json.loads((found.folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(own.llm.tokenizer.convert_tokens_to_ids(["<|im_end|>"])) <= set(ends)
    tokenizer = AutoTokenizer.from_pretrained(found.folder, config=config)
    assert tokenizer.get_vocab() == own.llm.tokenizer.get_vocab()
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}]
    assert own.template.image_token in tokenizer.apply_chat_template(talk, tokenize=False)


def test_a_layout_with_tags_at_its_edges_is_exported(tmp_path: Path) -> None:
    """The export checks that the ids of a prompt with images are those of hdvl."""
    concat = {"_target_": "hdvl.mergers.Concat", "_partial_": True, "tags": TAGS}
    node = tiny_node() | {"merger": concat}
    found = export_for_vllm(saved(node, tmp_path / "own"), tmp_path / "out")
    assert load_folder(found.folder).merger.tags.before_tile == "row {row}: "


def test_overrides_are_written(tiny_folder: Path, tmp_path: Path) -> None:
    changes = {"tiler": {"max_tiles": 2}}
    found = export_for_vllm(tiny_folder, tmp_path / "out", overrides=changes)
    assert load_folder(found.folder).tiler.max_tiles == 2


REFUSED = {
    "another family": (
        tiny_node(llm={"config": NODE["llm"]["config"] | {"model_type": "gpt_neox"}}),
        r"the language model is GPTNeoXModel \(gpt_neox\), known are llama, mistral, qwen2, qwen3",
    ),
    "position rules": (
        tiny_node(llm={"rules": {"_target_": "hdvl.llms.Qwen1Rules", "seq_length": 64}}),
        r"llm.rules is Qwen1Rules \(only null\)",
    ),
    "frequencies by length": (
        tiny_node(
            llm={
                "config": NODE["llm"]["config"]
                | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
            }
        ),
        "the rotary frequencies of the language model depend on the length of each text",
    ),
    "no tokenizer": (tiny_node(llm={"tokenizer": None}), "the model has no tokenizer"),
    "a window of turns": (
        tiny_node(template={"window": 64}),
        "template.window must be null for an export",
    ),
}


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("case", REFUSED)
def test_what_vllm_cannot_run_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    node, message = REFUSED[case]
    folder = saved(node, tmp_path / "own")
    with pytest.raises(ValueError, match=f"vLLM cannot run this model: .*{message}"):
        export_for_vllm(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


@pytest.mark.slow
def test_all_reasons_are_in_one_error(tmp_path: Path) -> None:
    target = f"{Recurrent.__module__}.{Recurrent.__qualname__}"
    node = tiny_node() | {"llm": {**NODE["llm"], "_target_": target, "width": 32}}
    del node["llm"]["config"]
    folder = saved(node, tmp_path / "own")
    with pytest.raises(ValueError, match="llm is Recurrent, not a causal model") as error:
        export_for_vllm(folder, tmp_path / "out", allow=["tests"])
    assert "its parts are of tests, and processes of vLLM load only parts of hdvl" in str(
        error.value
    )
