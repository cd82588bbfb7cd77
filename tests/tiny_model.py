"""A composition small enough to be built, saved and used in a test, and a folder with it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from hdvl.checkpoints import save_folder
from hdvl.config import build, from_plain
from hdvl.model import VLM

NODE: dict[str, Any] = {
    "_target_": "hdvl.model.VLM",
    "tiler": {
        "_target_": "hdvl.tilers.SlidingWindow",
        "tile_size": 32,
        "stride": 32,
        "multiple_of": 32,
        "max_tiles": 6,
        "thumbnail": "first",
        "backend": "exact",
    },
    "encoder": {
        "_target_": "hdvl.encoders.ConvStem",
        "tile_size": 32,
        "stem_width": 8,
        "width": 16,
        "stem_depth": 1,
        "depth": 1,
    },
    "bridge": {"_target_": "hdvl.bridges.MLP", "_partial_": True, "depth": 1},
    "merger": {"_target_": "hdvl.mergers.Spatial", "_partial_": True, "newline": True},
    "llm": {
        "_target_": "hdvl.llms.CausalLM.from_config",
        "config": {
            "model_type": "qwen2",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
            # Large enough that answers differ from prompt to prompt.
            "initializer_range": 0.3,
        },
        "tokenizer": {"_target_": "hdvl.llms.build_tokenizer", "vocab_size": 320},
    },
    "template": {"_target_": "hdvl.templates.ChatML"},
    "encode_chunk": None,
}


def tiny_node(**parts: Any) -> dict[str, Any]:
    """The composition with some parts' numbers changed."""
    node = deepcopy(NODE)
    for part, changes in parts.items():
        node[part] = {**node[part], **changes} if isinstance(changes, dict) else changes
    return node


def tiny_vlm(node: dict[str, Any] | None = None, *, seed: int = 0) -> VLM:
    """The model with random weights."""
    torch.manual_seed(seed)
    vlm: VLM = build(from_plain(node or NODE))
    return vlm.eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model. Tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_folder(tiny_vlm(), folder, {"model": NODE, "seed": 0}, licence="Apache-2.0")
