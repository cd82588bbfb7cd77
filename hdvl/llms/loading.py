"""Reads causal language models with their weights: model folders, names on the hub, and GGUF files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hdvl.gguf import find_gguf, read_gguf_config, read_gguf_model, read_gguf_tokenizer
from hdvl.llms.building import from_numbers
from hdvl.llms.tokenizers import has_tokenizer, load_tokenizer
from hdvl.llms.transformers_config import check_hub_model


def read_pretrained(path: str, *, tokenizer: Any, dtype: str) -> tuple[Any, Any]:
    """Return the model and its tokenizer; see :meth:`hdvl.llms.CausalLM.from_pretrained`."""
    file = find_gguf(path)
    if file is not None:
        return _from_gguf(file, tokenizer=tokenizer, dtype=dtype)
    from transformers import AutoConfig, AutoModelForCausalLM

    local = Path(path).is_dir()
    if not local:
        check_hub_model(path)
    if tokenizer is None and (not local or has_tokenizer(path)):
        tokenizer = load_tokenizer(path)
    if _on_meta():
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        return from_numbers(config), tokenizer
    model, report = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    _check(report, path)
    return model, tokenizer


def _from_gguf(file: Path, *, tokenizer: Any, dtype: str) -> tuple[Any, Any]:
    from accelerate import init_empty_weights

    if tokenizer is None:
        tokenizer = read_gguf_tokenizer(file)
    if _on_meta():
        return from_numbers(read_gguf_config(file)), tokenizer
    state, config, report = read_gguf_model(file, dtype=dtype)
    _check(report, str(file))
    # A model of its own: the one that transformers read counts as quantised although its weights are not,
    # so that it could neither be converted nor saved as an ordinary one.
    with init_empty_weights(include_buffers=False):
        model = from_numbers(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model, tokenizer


def _on_meta() -> bool:
    return torch.get_default_device().type == "meta"


def _check(report: Mapping[str, Any], source: str) -> None:
    faults = {name: sorted(map(str, keys)) for name, keys in report.items() if keys}
    if faults:
        raise ValueError(f"weights in {source!r} must match the model exactly, got {faults}")
