"""Tokenizers of the kinds that published models carry, trained on a few sentences."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from hdvl.llms import build_tokenizer
from hdvl.llms.texts import TEXTS

# Merges over every edge that a template can make: ": A", "\n\n", " yes", "] I".
GLUE = [
    "Assistant: A cat. Assistant: A1",
    "a\n\n\nb\n\nc",
    "[/INST] I see. ASSISTANT: Yes",
    "中文。",
]


@lru_cache
def _bytes() -> Any:
    return build_tokenizer(texts=[*TEXTS, *GLUE * 20], vocab_size=700)


def _add(tokenizer: Any, special: Sequence[str], *, rstrip: bool = False) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokens = [AddedToken(token, rstrip=rstrip, normalized=False) for token in special]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    return tokenizer


def byte_level(special: Sequence[str]) -> Any:
    """Qwen's kind: bytes, spaces inside the offsets."""
    return _add(_bytes(), special)


def trimmed(special: Sequence[str]) -> Any:
    """Llama 3's and GPT-2's kind: bytes, spaces left out of the offsets."""
    tokenizer = byte_level(special)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


@lru_cache
def _words() -> Any:
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    lines = [line for text in [*TEXTS, *GLUE] for line in text.split("\n")]
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()  # no merge goes over the start of a word
    bpe.train_from_iterator(lines, trainer)
    bpe.pre_tokenizer = None
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def metaspace(special: Sequence[str]) -> Any:
    """Llama 2's kind: a space in front of everything, written as ``▁``, bytes for the unknown."""
    return _add(_words(), special)


def swallowing(special: Sequence[str]) -> Any:
    """Phi 3's kind: markers that take the spaces after them."""
    return _add(_bytes(), special, rstrip=True)


KINDS = {"byte_level": byte_level, "trimmed": trimmed, "metaspace": metaspace}
