"""Checks of the files, folders and names that commands are given. They cost no import of torch."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import has_magic
from numbers import Real
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parent / "assets"
"""Folder of the shipped models and images."""

SHIPPED = "hdvl/"
"""Beginning of the names of shipped models."""

WRITTEN_FILES = ("out", "contact", "attention", "report", "quarantine")
"""Keys of files that commands write."""

DTYPES = ("float32", "bfloat16", "float16")
_DEVICE = re.compile(r"(cpu|cuda|mps)(:\d+)?")
_OTHER_NAMES = {"gpu": "cuda", "half": "float16", "fp16": "float16", "bf16": "bfloat16"} | {
    "fp32": "float32",
    "float": "float32",
}
_MODEL_FILES = ("config.yaml", "config.json", "train.yaml")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_LONGEST_PATH = 4096  # longer text is an image in base64


def check_inputs(plain: Mapping[str, Any]) -> None:
    """Check the inputs of a command before heavy libraries are imported.

    Args:
        plain: the config of the command; ``image``, ``inputs``, ``checkpoint``, ``init_from``,
            ``resume``, ``data``, ``device``, ``dtype`` and the keys of ``WRITTEN_FILES`` are checked if they
            are there.

    Raises:
        ValueError: a file or a folder does not exist or is of another kind, or a name is unknown.
    """
    for key in ("checkpoint", "init_from"):
        given = plain.get(key)
        for source in given if isinstance(given, list) else [given]:
            if isinstance(source, str) and "${" not in source:
                check_checkpoint(source, key)
    resume = plain.get("resume")
    if isinstance(resume, str) and "${" not in resume and not os.path.isdir(resume):
        raise ValueError(f"resume must be a run folder, there is no {resume}{_like_it(resume)}")
    for key in WRITTEN_FILES:
        if isinstance(plain.get(key), str):
            check_written_file(key, Path(plain[key]))
    if isinstance(plain.get("data"), Mapping):
        check_data(plain["data"])
    if isinstance(plain.get("inputs"), str):
        check_questions(plain["inputs"])
    check_name("device", plain.get("device"))
    check_name("dtype", plain.get("dtype"))
    found = plain.get("image")
    for path in [found] if isinstance(found, str) else found or ():
        if isinstance(path, str):
            check_image(path)


def check_written_file(key: str, path: Path) -> None:
    """Check that a file can be written to ``path``, in a folder that is there or can be made.

    Raises:
        ValueError: it is a folder, or below a file; ``key`` is named.
    """
    if path.is_dir():
        raise ValueError(f"{key} must be a file, {path} is a folder; give a name in it")
    check_written_folder(key, path.parent, path)


def check_written_folder(key: str, folder: Path, path: Path | None = None) -> None:
    """Check that ``folder`` is one that the user may write to, or can be made.

    Args:
        key: the key of the command line that is named.
        folder: the folder.
        path: what was given, if it is not the folder.

    Raises:
        ValueError: it cannot be written to.
    """
    above = next(place for place in (folder, *folder.parents, Path()) if place.exists())
    what = "a file" if path else "a folder"
    if not above.is_dir():
        raise ValueError(
            f"{key} must be {what}, {above} in {path or folder} is a file; give another"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{key} must be {what} that can be written, {above} may not be written to")


def check_image(path: str) -> None:
    """Raise a ValueError if ``path`` is not a file. Text that is an image (base64, a URL) is not checked."""
    if len(path) > _LONGEST_PATH or re.match(r"data:|[a-z][a-z0-9+.-]*://", path, re.IGNORECASE):
        return
    if os.path.isdir(path):
        raise ValueError(
            f"image must be a regular file, {path} is a folder; give one of its files, or ask about all of "
            f"them with inputs={path}"
        )
    if not path:
        raise ValueError("image must be a file, got nothing; give a path, such as image=page.png")
    if not os.path.exists(path):
        raise ValueError(f"image must be a file, there is no {path}{_like_it(path)}")


def check_questions(inputs: str) -> None:
    """Raise a ValueError if ``inputs``, the questions of a command, is neither a path nor a pattern."""
    if not has_magic(inputs) and not os.path.exists(inputs):
        raise ValueError(
            "inputs must be a folder, a pattern, or a JSON, JSONL or parquet file, there is no "
            f"{inputs}{_like_it(inputs)}"
        )


def check_data(data: Mapping[str, Any]) -> None:
    """Check the files and folders of the training and the validation data, and the share held out.

    Args:
        data: the ``data`` group of the config, as plain data. Values that are not yet known (``???`` and
            interpolations) are not checked.

    Raises:
        ValueError: one is wrong; the message names its key, such as ``data.train.image_folder``.
    """
    for part in ("train", "validation"):
        for key, value in _strings(data.get(part), f"data.{part}"):
            name = key.rpartition(".")[2]
            if name == "path" and not has_magic(value) and not os.path.exists(value):
                raise ValueError(f"{key} must exist, there is no {value}{_like_it(value)}")
            if name == "image_folder" and not os.path.isdir(value):
                raise ValueError(
                    f"{key} must be the folder that the paths of images in the rows are relative to, "
                    f"there is no folder {value}{_like_it(value)}"
                )
    if data.get("holdout") is not None and "${" not in str(data["holdout"]):
        check_share(data["holdout"])


def check_share(share: object) -> None:
    """Raise a ValueError if ``share`` is not a fraction of the rows that can be held out."""
    if not isinstance(share, Real) or not 0 < float(share) < 1:
        raise ValueError(
            f"data.holdout must be a number above 0 and below 1, such as 0.1, or null, got {share}"
        )


def _strings(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the value of each known string below ``node``."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _strings(value, f"{place}.{name}")
    elif isinstance(node, str) and node != "???" and "${" not in node:
        yield place, node


def check_checkpoint(source: str, key: str = "checkpoint") -> None:
    """Check that ``source`` is a shipped model or a folder that may hold a model.

    Raises:
        ValueError: it is neither; the message gives the reason.
    """
    if source.startswith(SHIPPED) and not os.path.exists(source):
        shipped_folder(source)
        return
    folder = Path(source)
    if folder.is_file():
        raise ValueError(f"{key} must be a folder, {source} is a file; give the folder it lies in")
    if not folder.is_dir():
        if re.fullmatch(r"[\w-]+/[\w.-]+", source) and not folder.parent.is_dir():
            raise ValueError(
                f"{key} must be a folder, there is no {source}; hdvl downloads nothing: if that is a name "
                "on a model hub, download it and give its folder"
            )
        raise ValueError(f"{key} must be a folder, there is no {source}{_like_it(source)}")
    names = sorted(os.listdir(folder))
    if not names:
        raise ValueError(f"{key} must hold a model, the folder {source} is empty")
    if not any(name in _MODEL_FILES or name.endswith(_WEIGHTS) for name in names):
        held = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        inner = [name for name in names if (folder / name / "config.yaml").is_file()]
        hint = (
            f"; give {folder / inner[0]}"
            if inner
            else "; give a folder that hdvl saved, or a published one"
        )
        raise ValueError(
            f"{key} must hold a model (config.yaml or config.json and weights), the folder {source} holds "
            f"{held}{hint}"
        )


def shipped_folder(name: str) -> Path:
    """Return the folder of the shipped model called ``name``."""
    folder = ASSETS / name.removeprefix(SHIPPED)
    if not (folder / "config.yaml").is_file():
        shipped = sorted(f"{SHIPPED}{path.parent.name}" for path in ASSETS.glob("*/config.yaml"))
        raise ValueError(
            f"model {name!r} is not shipped with this hdvl, which has: {', '.join(shipped) or 'none'}; "
            "give a model folder"
        )
    return folder


def check_name(key: str, value: Any) -> None:
    """Raise a ValueError if ``value`` is not a name of a ``device`` or ``dtype``, whichever ``key`` is."""
    if value is None:
        return
    known = _DEVICE.fullmatch(str(value)) if key == "device" else value in DTYPES
    if not known:
        names = (
            "cpu, cuda, cuda:1 or mps" if key == "device" else f"one of {', '.join(DTYPES)} or null"
        )
        meant = _OTHER_NAMES.get(str(value).lower())
        hint = f", did you mean {meant}?" if meant else ""
        raise ValueError(f"{key} must be {names}, got {value}{hint}")


def _like_it(path: str) -> str:
    """Return the end of a message: the file in the same folder most similar to a missing ``path``."""
    folder, name = os.path.split(path)
    try:
        siblings: Sequence[str] = [each for each in os.listdir(folder or ".") if each != name]
    except OSError:
        return f"; the folder {folder} does not exist" if folder else ""
    like = difflib.get_close_matches(name, siblings, n=1, cutoff=0.7)
    return f", did you mean {os.path.join(folder, like[0])}?" if like else "; check the path"
