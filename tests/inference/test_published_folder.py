"""A published Qwen-VL-Chat folder with its rank file: from the files to an answer as described."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hdvl
from hdvl.llms.qwen_tiktoken import SPECIAL_TOKENS
from tests.golden_files import reference_state, write_published
from tests.llms.rank_files import learn_ranks, write_ranks
from tests.qwen_vl_reference import VISUAL, chat, manifest, table

RANKS = learn_ranks()
IMG = len(RANKS) + SPECIAL_TOKENS.index("<img>")
ROWS = len(RANKS) + len(SPECIAL_TOKENS) + 7  # padded, as published
VISION = {
    "heads": 2,
    "image_size": 112,
    "image_start_id": IMG,
    "layers": 1,
    "mlp_ratio": 2.0,
    "output_dim": 128,
    "patch_size": 14,
    "width": 32,
}
CONFIG: dict[str, Any] = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "vocab_size": ROWS,
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "kv_channels": 64,
    "intermediate_size": 128,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 8192,
    "seq_length": 2048,
    "rotary_pct": 1.0,
    "rotary_emb_base": 10000.0,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "no_bias": True,
    "tie_word_embeddings": False,
    "visual": VISION,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Qwen-VL-Chat")
    state = reference_state(manifest(CONFIG))
    state[f"{VISUAL}attn_pool.pos_embed"] = table(16, 128)
    write_published(folder, CONFIG, state)
    (folder / "generation_config.json").write_text(json.dumps({"chat_format": "chatml"}))
    values = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(values).save(folder / "cat.png")
    return write_ranks(folder, RANKS)


@pytest.mark.slow
def test_from_the_files_to_an_answer(folder: Path) -> None:
    pipe = hdvl.load(folder)
    assert pipe.model.llm.rows == ROWS and pipe.model.image_token_id == IMG + 2
    items = [{"image": folder / "cat.png"}, {"text": "Where is <|im_end|>?"}]
    answer = pipe.chat(items, max_new_tokens=6, history=[("图中?", "Yes.")])
    assert answer.numbers.visual_tokens == 256
    sample = pipe.processor(answer.history[:-1], add_generation_prompt=True)
    state = reference_state(manifest(CONFIG))
    state[f"{VISUAL}attn_pool.pos_embed"] = table(16, 128)
    mean, std = (
        torch.tensor(numbers)[:, None, None]
        for numbers in (pipe.model.encoder.mean, pipe.model.encoder.std)
    )
    pixels, ids = (sample.pixels / 255 - mean) / std, sample.ids
    said = list[int]()
    ends = pipe.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
    while len(said) < 6 and not (said and said[-1] in ends):
        said.append(int(chat(state, ids, pixels, CONFIG, prompt=len(sample.ids))[-1].argmax()))
        ids = torch.cat((ids, torch.tensor(said[-1:])))
    assert answer.numbers.new_tokens == len(said)
    words = [token for token in said if token < len(RANKS) + 217]
    assert answer.text == pipe.tokenizer.decode(words, skip_special_tokens=True)


def test_another_models_rank_file(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (tmp_path / name).symlink_to(folder / name)
    write_ranks(tmp_path, learn_ranks(150))
    with pytest.raises(
        ValueError, match=r"must give <imgpad> the id .* it belongs to another model"
    ):
        hdvl.load(tmp_path)
