"""Tokenizer of the first Qwen models, converted from their published rank file."""

import base64
import binascii
from pathlib import Path
from typing import Any

FILE = "qwen.tiktoken"
END = "<|endoftext|>"
CHAT_TOKENS = (END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
TAGS = (
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"),
    *("<img>", "</img>", "<imgpad>"),
)
SPECIAL_TOKENS = (*CHAT_TOKENS, *TAGS)
"""Special tokens. Their ids follow the last of the 151,643 ranks: 151643 to 151859."""


def load_qwen_tokenizer(folder: str | Path) -> Any:
    """Load a fast tokenizer of transformers from ``qwen.tiktoken`` in ``folder``, without running its code.

    Text is normalised to NFC, split as in the published tokenizer (each digit separately) and merged by
    rank (Bai et al., 2023, "Qwen technical report", arXiv:2309.16609). A rank file has no merges. They are
    all splits of a token into two tokens, ordered by the rank of the token, which gives the same ids. An
    image is ``<img>``, one ``<imgpad>`` for each visual token, and ``</img>``. (The published code writes
    the bytes of the image's path as ids instead and overwrites their embeddings.)

    Padding and end of sequence are ``<|endoftext|>``. ``tokenizer.decode`` returns U+FFFD for bytes that
    are not UTF-8.

    Raises:
        ValueError: the file is missing, or a line is not of the form "token rank"; the message names it.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    vocabulary = read_ranks(Path(folder) / FILE)
    merges = generate_merges(vocabulary, None)
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    bpe.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=END,
        eos_token=END,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def read_ranks(path: Path) -> dict[str, int]:
    """Read the ranks of a tiktoken file, whose lines are the base64 of a token, a space and its rank.

    The bytes of a token are returned as characters of byte-level BPE (a space as ``Ġ``). The ranks must
    be 0, 1, 2, ... and include every single byte, so that every text can be encoded.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    if not path.is_file():
        raise ValueError(f"tokenizer folder {str(path.parent)!r} must hold {path.name}")
    letters, ranks = bytes_to_unicode(), dict[str, int]()
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            text = "".join(letters[byte] for byte in base64.b64decode(token, validate=True))
            ranks[text] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"line {number} of {str(path)!r} must be a token in base64 and its rank, got "
                f"{line[:80]!r}"
            ) from error
    if sorted(ranks.values()) != list(range(len(ranks))) or not set(letters.values()) <= set(ranks):
        raise ValueError(
            f"ranks in {str(path)!r} must be 0, 1, 2, ..., one a token, and every byte must have one, "
            f"got {len(ranks)} tokens; the file may be cut short"
        )
    return ranks
