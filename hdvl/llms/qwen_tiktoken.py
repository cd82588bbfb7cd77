"""The tokenizer of the first Qwen models, out of the rank file they were published with."""

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
"""Their ids follow the last rank: 151643 to 151859 behind Qwen's 151,643 ranks."""


def load_qwen_tokenizer(folder: str | Path) -> Any:
    """A fast tokenizer of transformers out of ``qwen.tiktoken`` in ``folder``. Runs no code from there.

    Text is normalised to NFC, split as Qwen's models split it (each digit alone), and merged by rank
    (Bai et al., 2023, "Qwen technical report", arXiv:2309.16609). A rank file names no merges; those of a
    token are its splits into two tokens, and what merges first is what has the lower rank, so the ids
    are the same. ``<img>`` and its like are tokens: an image is ``<img>``, one ``<imgpad>`` a visual
    token, ``</img>``. (The published code writes the bytes of the image's path there, as ids, and
    overwrites their embeddings.)

    Padding and end of sequence are ``<|endoftext|>``. ``tokenizer.decode`` writes U+FFFD for bytes that
    are no UTF-8.

    Raises:
        ValueError: no such file, or a line of it that is no "token rank"; the message names the line.
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
    """The ranks of a tiktoken file: a line is the base64 of a token's bytes, a space, its rank.

    Bytes are written as byte-level BPE writes them (a space as ``Ġ``). The ranks are 0, 1, 2, ... and
    each single byte has one, so that every text has ids.
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
