"""Tokenizers: a small byte-level one that is trained in memory, and those in folders or on the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hdvl.inputs import SHIPPED, shipped_folder
from hdvl.llms.qwen_tiktoken import FILE as QWEN_FILE
from hdvl.llms.qwen_tiktoken import load_qwen_tokenizer
from hdvl.llms.texts import TEXTS
from hdvl.llms.tokenizer_files import check_tokenizer_files
from hdvl.sequences import one_or_several

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json"),
    QWEN_FILE,
)


def build_tokenizer(
    *,
    texts: Sequence[str] | None = None,
    vocab_size: int = 512,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    pad_token: str = "<|endoftext|>",
    eos_token: str = "<|im_end|>",
    max_token_length: int | None = None,
) -> Any:
    """Train a byte-level BPE tokenizer (Radford et al., 2019, "Language models are unsupervised multitask
    learners"). The result depends only on the arguments.

    Encoding and decoding restore every text exactly. Each digit is a separate token, and offsets are
    characters of the text.

    Args:
        texts: the training texts; ``None`` for the sentences of ``hdvl.llms.texts``.
        vocab_size: number of ids, including special tokens and the 256 bytes. The vocabulary is smaller
            if the texts do not give enough merges.
        special_tokens: special tokens, which come first in the vocabulary.
        pad_token: one of ``special_tokens``.
        eos_token: one of ``special_tokens``.
        max_token_length: the longest token in bytes; short tokens help a model that reads letters.

    Raises:
        ValueError: ``vocab_size`` is too small, or a token is not one of ``special_tokens``.
    """
    from transformers import PreTrainedTokenizerFast

    special_tokens = one_or_several(special_tokens, "special_tokens")
    texts = None if texts is None else one_or_several(texts, "texts")
    least = 256 + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size must hold 256 bytes and {len(special_tokens)} special tokens, at least "
            f"{least}, got {vocab_size}"
        )
    for name, token in (("pad_token", pad_token), ("eos_token", eos_token)):
        if token not in special_tokens:
            raise ValueError(
                f"{name} must be one of special_tokens {list(special_tokens)}, got {token!r}"
            )
    return PreTrainedTokenizerFast(
        tokenizer_object=_train(texts, vocab_size, special_tokens, max_token_length),
        pad_token=pad_token,
        eos_token=eos_token,
        additional_special_tokens=[t for t in special_tokens if t not in (pad_token, eos_token)],
        clean_up_tokenization_spaces=False,
    )


def _train(
    texts: Sequence[str] | None,
    vocab_size: int,
    special_tokens: Sequence[str],
    max_token_length: int | None,
) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    bpe.train_from_iterator(
        list(TEXTS if texts is None else texts),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            max_token_length=max_token_length,
            show_progress=False,
        ),
    )
    return bpe


def read_texts(path: str) -> list[str]:
    """Return the lines of a UTF-8 text file, for ``build_tokenizer(texts=...)`` in a configuration."""
    return Path(path).read_text(encoding="utf-8").splitlines()


def has_tokenizer(folder: str | Path) -> bool:
    """Return whether a local folder holds tokenizer files."""
    return any((Path(folder) / name).is_file() for name in _TOKENIZER_FILES)


def load_tokenizer(
    path: str | Path, *, pad_token: str | None = None, eos_token: str | None = None
) -> Any:
    """Load a fast tokenizer from a local folder or from the hub, without running its code.

    For a folder with ``qwen.tiktoken`` and without ``tokenizer.json`` this is the tokenizer of the first
    Qwen models.

    Args:
        path: a folder with tokenizer files, a model folder that hdvl saved, a shipped model such as
            ``hdvl/small``, or a name on the hub.
        pad_token: replaces the padding token of the files; XVERSE-V pads with ``<pad>``.
        eos_token: replaces the end-of-sequence token of the files; answers of XVERSE end with
            ``<|endoftext|>``.

    Raises:
        ValueError: the tokenizer is not a fast one (others have no character offsets) or lacks such a
            token; or its files are damaged, name code, or name files outside of the folder.
    """
    path = _inside_model(path)
    folder = Path(path)
    if not folder.is_dir() and str(path).startswith((".", "/", "~")):
        raise ValueError(f"tokenizer folder must exist, got {str(path)!r}; check the path")
    if (folder / QWEN_FILE).is_file() and not (folder / "tokenizer.json").is_file():
        tokenizer = load_qwen_tokenizer(folder)
    else:
        tokenizer = _from_files(path) if folder.is_dir() else _from_hub(str(path))
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer must be a fast one, for its character offsets, got "
            f"{type(tokenizer).__name__} in {str(path)!r}; convert it to tokenizer.json"
        )
    vocabulary = tokenizer.get_vocab()
    for name, token in (("pad_token", pad_token), ("eos_token", eos_token)):
        if token is None:
            continue
        if token not in vocabulary:
            raise ValueError(f"{name} must be a token of the tokenizer in {path}, got {token!r}")
        setattr(tokenizer, name, token)
    return tokenizer


def _inside_model(path: str | Path) -> str | Path:
    """The folder of the tokenizer in a model folder of hdvl; any other ``path`` as it is."""
    shipped = str(path).startswith(SHIPPED) and not Path(path).is_dir()
    folder = shipped_folder(str(path)) if shipped else Path(path)
    own = folder / "tokenizer"
    return own if (folder / "config.yaml").is_file() and own.is_dir() else path


def _from_hub(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)


def _from_files(folder: str | Path) -> Any:
    from transformers import AutoTokenizer

    check_tokenizer_files(Path(folder))
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except (TypeError, KeyError, AttributeError, IndexError, OSError, ImportError) as error:
        raise ValueError(
            f"tokenizer in {str(folder)!r} cannot be read: {type(error).__name__}: {error}; copy its files "
            "again"
        ) from error


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Save the files of a tokenizer to ``folder`` for :func:`load_tokenizer`."""
    tokenizer.save_pretrained(str(folder))
