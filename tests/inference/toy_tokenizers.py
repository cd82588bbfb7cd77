"""Tokenizers of every kind of decoder, small enough to be built in a test."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hdvl.llms import build_tokenizer

END = "<|im_end|>"
MARKERS = ("<unk>", "<s>", "</s>", "<|im_start|>", END)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()<>|_/-=é漢字"
PIECES = ("▁", "th", "the", "▁the", "an", "▁a", "▁an", "ce", "ance", "▁w", "er", "User", "▁User:")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", END],
        clean_up_tokenization_spaces=False,
    )


def llama() -> PreTrainedTokenizerFast:
    """BPE with byte fallback, decoded as Llama's ``tokenizer.json`` says."""
    tokens = [*MARKERS, *BYTES, *LETTERS, *PIECES]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("a", "n"), ("▁", "a"), ("▁", "an")]
    merges += [("c", "e"), ("an", "ce"), ("▁", "w"), ("e", "r")]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _fast(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's unigram model with byte fallback and Metaspace."""
    tokens = dict.fromkeys([*MARKERS, *BYTES, *LETTERS, *PIECES])
    scores = [(token, -20.0 if token in BYTES else -float(9 - len(token))) for token in tokens]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _fast(tokenizer)


def byte_level() -> Any:
    """Byte-level BPE, of which every byte is a token."""
    return build_tokenizer(vocab_size=300)


def word_piece() -> PreTrainedTokenizerFast:
    """Words and their continuations, spaces before punctuation taken out."""
    tokens = [*MARKERS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "##ance", "n", "'"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return _fast(tokenizer)


def word_ends() -> PreTrainedTokenizerFast:
    """BPE whose last piece of a word is marked, as the first GPT's."""
    tokens = [*MARKERS, *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "the</w>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges: list[tuple[str, str]] = []
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", end_of_word_suffix="</w>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return _fast(tokenizer)


TOYS: dict[str, Callable[[], Any]] = {
    "llama": llama,
    "unigram": unigram,
    "byte_level": byte_level,
    "word_piece": word_piece,
    "word_ends": word_ends,
}
