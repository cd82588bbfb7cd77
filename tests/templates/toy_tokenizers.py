"""Tokenizers of the kinds that published models carry, trained on a few sentences."""

from collections.abc import Sequence
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
GLUE = ["Assistant: A cat. Assistant: A1", "a\n\n\nb\n\nc", "[/INST] I see. ASSISTANT: Yes", "中文。"]


def byte_level(special: Sequence[str], **tokens: Any) -> Any:
    """Qwen's kind: bytes, spaces inside the offsets."""
    eos = tokens.get("eos_token", special[0])
    return build_tokenizer(
        texts=[*TEXTS, *GLUE * 20],
        vocab_size=700,
        special_tokens=list(special),
        pad_token=eos,
        eos_token=eos,
    )


def trimmed(special: Sequence[str], **tokens: Any) -> Any:
    """Llama 3's and GPT-2's kind: bytes, spaces left out of the offsets."""
    tokenizer = byte_level(special, **tokens)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def metaspace(special: Sequence[str], **tokens: Any) -> Any:
    """Llama 2's kind: a space in front of everything, written as ``▁``, bytes for the unknown."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
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
    normalizer, bpe.normalizer = bpe.normalizer, None
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()  # no merge goes over the start of a word
    bpe.train_from_iterator(lines, trainer)
    bpe.normalizer, bpe.pre_tokenizer = normalizer, None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, normalized=False) for t in special]}
    )
    return tokenizer


def swallowing(special: Sequence[str], **tokens: Any) -> Any:
    """Phi 3's kind: markers that take the spaces after them."""
    tokenizer = byte_level(["<|nothing|>"], eos_token="<|nothing|>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, rstrip=True, normalized=False) for t in special]}
    )
    return tokenizer


KINDS = {"byte_level": byte_level, "trimmed": trimmed, "metaspace": metaspace}
