"""Checks that the tokenizer files of a folder hold only data."""

from pathlib import Path
from typing import Any

from hdvl.files import read_json

CONFIG, FAST = "tokenizer_config.json", "tokenizer.json"


def check_tokenizer_files(folder: Path) -> None:
    """Check that tokenizer files name neither code nor files outside of ``folder``.

    Raises:
        ValueError: they do, or they are no valid JSON; the message names the file and the key.
    """
    file = folder / CONFIG
    settings: Any = read_json(file) if file.is_file() else {}
    if not isinstance(settings, dict):
        raise ValueError(f"{str(file)!r} must be a JSON object, got {type(settings).__name__}")
    code = settings.get("auto_map")
    if code and not (isinstance(code, dict) and "AutoTokenizer" not in code):
        raise ValueError(
            f"{str(file)!r} names code by auto_map, got {str(code)[:200]}; hdvl runs no code from a model "
            f"folder: save the tokenizer as {FAST}, and take auto_map out"
        )
    for key, value in settings.items():
        if key.endswith("_file") and isinstance(value, str) and Path(value).name != value:
            raise ValueError(
                f"{str(file)!r} must name files beside it, got {key}={value[:200]!r}; take {key} out"
            )
    fast: Any = read_json(folder / FAST) if (folder / FAST).is_file() else {"model": {}}
    if not isinstance(fast, dict) or not isinstance(fast.get("model"), dict):
        raise ValueError(
            f"{str(folder / FAST)!r} must be a JSON object with a model; copy it again"
        )
