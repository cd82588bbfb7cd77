"""GGUF files of llama.cpp: a language model, mostly of few bits, with its tokenizer and chat template.

They are read by transformers (``from_pretrained(folder, gguf_file=name)``), which needs the package gguf.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SUFFIX = ".gguf"
_DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, OverflowError),
    *(RuntimeError, AssertionError, NotImplementedError, UnicodeError, MemoryError, struct.error),
)
"""What transformers and gguf raise for a file that is damaged or of an unknown kind."""


def find_gguf(path: str | Path) -> Path | None:
    """The GGUF file of ``path``: the file itself, or the only one in a folder without ``config.json``.

    Raises:
        ValueError: the folder holds several, or ``path`` is a file of another kind.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() != SUFFIX:
            raise ValueError(
                f"path must be a model folder or a {SUFFIX} file, got the file {str(path)!r}; give the "
                "folder that contains it"
            )
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise ValueError(
            f"folder {str(path)!r} holds {len(found)} {SUFFIX} files ({names}); give the path of one"
        )
    return found[0] if found else None


def read_gguf_config(file: Path) -> Any:
    """The configuration of transformers for the model in ``file``; no weights are read.

    Raises:
        ValueError: the file is damaged, or transformers does not read its architecture.
        ImportError: the package gguf is not installed.
    """
    from transformers import AutoConfig

    with _naming_file_in_errors(file, "its configuration"):
        return AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)


def read_gguf_tokenizer(file: Path) -> Any:
    """The fast tokenizer in ``file``, with its chat template.

    Raises:
        ValueError, ImportError: as :func:`read_gguf_config`, or the file holds no tokenizer.
    """
    from transformers import AutoTokenizer

    with _naming_file_in_errors(file, "its tokenizer"):
        return AutoTokenizer.from_pretrained(
            file.parent,
            gguf_file=file.name,
            use_fast=True,
            trust_remote_code=False,
            local_files_only=True,
        )


def read_gguf_model(file: Path, *, dtype: str) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The dequantised weights in ``file``.

    Args:
        file: the GGUF file.
        dtype: the type of the weights after dequantisation, such as ``float32``.

    Returns:
        The state dict of the causal language model, its configuration without quantisation, and the report
        of transformers on missing and unexpected tensors.

    Raises:
        ValueError, ImportError: as :func:`read_gguf_config`.
    """
    from transformers import AutoModelForCausalLM

    config = read_gguf_config(file)
    with _naming_file_in_errors(file, "its weights"):
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent,
            config=config,
            gguf_file=file.name,
            dtype=dtype,
            trust_remote_code=False,
            output_loading_info=True,
        )
    return model.state_dict(), config, report


@contextmanager
def _naming_file_in_errors(file: Path, what: str) -> Iterator[None]:
    """Convert what the libraries raise for an unreadable file to a ``ValueError`` that names it."""
    if find_spec("gguf") is None:
        raise ImportError(
            f"reading {str(file)!r} needs the package gguf; install it with: pip install 'hdvl[gguf]'"
        )
    try:
        with file.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{str(file)!r} must be a GGUF file of a causal language model with its tokenizer, {what} cannot "
            f"be read: {type(error).__name__}: {reason}; download it again, or give another file"
        ) from error
