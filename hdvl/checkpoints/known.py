"""The names that a model folder may use: the parts of hdvl, and packages that the caller allows.

A model folder is untrusted data. Its names are compared with the allowed ones before anything is imported,
and arguments by which a part would read something outside the folder are rejected.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from math import isfinite
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hdvl.checkpoints.nodes import ARGS, PARTIAL, RESERVED, TARGET, Node, target_of
from hdvl.checkpoints.taken import SOURCES
from hdvl.config import CONF_DIR
from hdvl.files import read_yaml
from hdvl.sequences import one_or_several

PART_PACKAGES = ("tilers", "encoders", "bridges", "mergers", "llms", "templates")
CONSTRUCTORS = ("from_config", "from_pretrained")
LOAD_TOKENIZER = "hdvl.llms.load_tokenizer"
MODEL = "hdvl.model.VLM"

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_ELSEWHERE = re.compile(r"\s*(hub|hf[-_]hub|local[-_]dir|https?|file|ftp|s3|gs)\s*:", re.IGNORECASE)
_INTERPOLATION = re.compile(
    r"\s*((oc\.dict\.(values|keys)|oc\.env|now|hydra)\s*:[^{}]*|[\w.\[\]/-]+)\s*\}"
)
"""The interpolations allowed in a stored run: a key, or a resolver that returns text or an existing value."""
_COUNTS = re.compile(r"(^|_)(depths?|layers?|blocks?|heads|queries|experts)$")
_MOST_COUNTED, _LARGEST = 100_000, 2**48
"""The largest number of layers and similar counts, and the largest number of other kinds.

The time and memory that building takes grow with them.
"""
_EARLIER = ("lightning.pytorch.loggers.TensorBoardLogger",)
"""Targets that ``conf/`` had earlier, so that runs with them can be resumed."""
_READERS = ("hdvl.encoders.", "hdvl.llms.")
_READING = (
    *("weights", "path", "checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir"),
    *("pretrained_cfg_overlay", "timm_model_pretrained", "use_pretrained_backbone", "auto_map"),
    *("use_timm_backbone", "attn_implementation", "_attn_implementation", "trust_remote_code"),
    *("code_revision", "hf_model_name", "hf_model_pretrained", "hf_tokenizer_name"),
)
"""Arguments by which timm, open_clip and transformers read other files, the network, or code."""


def as_packages(allow: str | Sequence[str]) -> tuple[str, ...]:
    """The names of packages in ``allow``, which may also be a single name.

    Raises:
        ValueError: one of them is not a valid package name.
    """
    names = one_or_several(allow, "allow")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"allow must list names of packages, such as mypkg, got {name!r}")
    return names


@cache
def known_targets() -> frozenset[str]:
    """The names that every folder may use.

    These are the model, the tokenizer in the folder, and the public classes of the part packages
    under their public and their full name, with those of ``CONSTRUCTORS`` that can build a part without
    reading files.
    """
    names = {MODEL, LOAD_TOKENIZER}
    for package in PART_PACKAGES:
        module = import_module(f"hdvl.{package}")
        for name in module.__all__:
            kind = getattr(module, name)
            if not inspect.isclass(kind):
                continue
            for full_name in (f"hdvl.{package}.{name}", f"{kind.__module__}.{kind.__qualname__}"):
                names |= {full_name, *(f"{full_name}.{how}" for how in _constructors(kind))}
    return frozenset(names)


def _constructors(kind: type) -> Iterator[str]:
    for how in CONSTRUCTORS:
        method = getattr(kind, how, None)
        if method is None:
            continue
        parameters = inspect.signature(method).parameters
        # A constructor that requires a path would read files outside the folder.
        if how != "from_pretrained" or ("weights" in parameters and "path" not in parameters):
            yield how


def checked(value: Any, *, source: object, allow: str | Sequence[str] = ()) -> Any:
    """Check the model node of a folder's configuration, and mark its nodes as such.

    Args:
        value: plain data from the file.
        source: the file, for messages.
        allow: packages besides hdvl whose classes and functions may be named.

    Raises:
        ValueError: the node names something else, uses a key of Hydra that is not supported here, or would
            make a part of hdvl read something outside the folder.
    """
    packages = as_packages(allow)
    found = list(_nodes(value, "model"))
    for node, where in found:  # every name before the first import
        _check_name(node[TARGET], packages, source, where)
    for node, where in found:
        _check_keys(node, source, where)
        _check_sizes(node, source, where)
        if node[TARGET] not in known_targets():
            _check_home(node[TARGET], packages, source, where)
        elif node[TARGET].startswith(_READERS):
            _check_reads_nothing(node, source, where)
    return _as_nodes(value)


def check_run(config: Any, *, source: object, allow: str | Sequence[str] = ()) -> None:
    """Check that the stored configuration of a run names only targets of ``conf/``, the parts and ``allow``.

    Hydra will resolve its interpolations, so those that could create new nodes are rejected as well.

    Raises:
        ValueError: as in :func:`checked`, or there is a resolver that no configuration of hdvl needs.
    """
    packages = as_packages(allow)
    known = known_targets() | conf_targets()
    for node, where in _nodes(config, "run"):
        _check_name(node[TARGET], packages, source, where, known)
        if ARGS in node:
            raise ValueError(f"{source} uses {ARGS} at {where}; give arguments by name")
        if node[TARGET] not in known:
            _check_home(node[TARGET], packages, source, where)
    for place, _, value in _values(config, "run", into_nodes=True):
        if isinstance(value, str):
            _check_interpolations(value, source, place)


def _check_interpolations(text: str, source: object, place: str) -> None:
    for rest in text.split("${")[1:]:
        if not _INTERPOLATION.match(rest):
            raise ValueError(
                f"{source} has the interpolation ${{{_shortened(rest, str)} at {place}, which no "
                "configuration of hdvl needs; write its value"
            )


@cache
def conf_targets() -> frozenset[str]:
    """The targets in the files of ``conf/``."""
    files = sorted(CONF_DIR.rglob("*.yaml"))
    found = (node[TARGET] for file in files for node, _ in _nodes(read_yaml(file), file.stem))
    return frozenset({*_EARLIER, *(name for name in found if isinstance(name, str))})


def foreign_packages(value: Any) -> tuple[str, ...]:
    """The packages besides hdvl that nodes in ``value`` name, which loading must allow."""
    nodes = [node for node, _ in _nodes(value, "model")]
    targets = {str(node[TARGET]) for node in nodes} - known_targets() - set(SOURCES)
    allowed = {name for node in nodes if node[TARGET] in SOURCES for name in node.get("allow", ())}
    return tuple(sorted(allowed | {name.split(".")[0] for name in targets}))


def _nodes(value: Any, where: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(value, Mapping):
        if TARGET in value:
            yield value, where
        elif any(key in value for key in RESERVED):
            yield {**value, TARGET: None}, where
        for key, item in value.items():
            yield from _nodes(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _nodes(item, f"{where}[{number}]")


def _as_nodes(value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = {key: _as_nodes(item) for key, item in value.items()}
        return Node(inner) if TARGET in inner else inner
    return [_as_nodes(item) for item in value] if isinstance(value, list | tuple) else value


def _check_name(
    name: Any,
    packages: Sequence[str],
    source: object,
    where: str,
    known: frozenset[str] | None = None,
) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{source} names {_shortened(name)} at {where}, which is not a class; a _target_ must be the "
            "dotted name of a class"
        )
    if name in (known or known_targets()) or any(
        name.startswith(f"{package}.") for package in packages
    ):
        return
    package = name.split(".")[0]
    advice = f'if you trust the code of {package}, load with allow=["{package}"]'
    if package == "hdvl" or package in sys.stdlib_module_names:
        advice = "a model folder may name parts of hdvl and of the packages in allow="
    raise ValueError(
        f"{source} names {_shortened(name, str)}, which is not a part of hdvl, at {where}.{TARGET}; "
        f"{advice}"
    )


def _shortened(value: Any, text: Any = repr) -> str:
    written: str = text(value)
    return written if len(written) <= 200 else f"{written[:200]}..."


def _check_keys(node: Mapping[str, Any], source: object, where: str) -> None:
    odd = [key for key in node if not isinstance(key, str)]
    if odd:
        raise ValueError(f"{source} must have names as keys of {where}, got {odd[0]!r}")
    reserved = [key for key in node if key.startswith("_") and key not in (TARGET, PARTIAL)]
    if reserved:
        hint = "; give arguments by name" if ARGS in reserved else ""
        raise ValueError(
            f"{source} uses {reserved[0]} at {where}, which is not allowed in a model folder{hint}"
        )
    if not isinstance(node.get(PARTIAL, False), bool):
        raise ValueError(f"{source} must have true or false as {where}.{PARTIAL}")


def _check_sizes(node: Mapping[str, Any], source: object, where: str) -> None:
    for place, key, value in _values(node, where):
        most = _MOST_COUNTED if _COUNTS.search(key) else _LARGEST
        if isinstance(value, int | float) and isfinite(value) and abs(value) > most:
            # Values such as 1e30 are written for "no limit" in some configurations of transformers.
            if isinstance(value, float) and most == _LARGEST:
                continue
            raise ValueError(
                f"{source} must have at most {most} as {place}, got {_shortened(value)}"
            )


def _check_reads_nothing(node: Mapping[str, Any], source: object, where: str) -> None:
    if node[TARGET] == LOAD_TOKENIZER:
        _check_inside(node.get("path"), source, where)
        node = {key: value for key, value in node.items() if key != "path"}
    for place, key, value in _values(node, where):
        reads = key in _READING and value not in (None, False)
        if reads or (isinstance(value, str) and _ELSEWHERE.match(value)):
            raise ValueError(
                f"{source} says {place}={_shortened(value)}, but a model folder reads nothing outside "
                "itself; make that null, or load the part by an override of your own"
            )


def _values(
    value: Any, where: str, key: str = "", *, into_nodes: bool = False
) -> Iterator[tuple[str, str, Any]]:
    """(place, last key, value) of each value; those inside inner nodes only with ``into_nodes``."""
    if isinstance(value, Mapping):
        if key in _READING:
            yield where, key, value
        inner = [(f"{where}.{name}", str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{where}[{number}]", key, item) for number, item in enumerate(value)]
    else:
        yield where, key, value
        return
    for place, name, item in inner:
        if into_nodes or not (isinstance(item, Mapping) and TARGET in item):
            yield from _values(item, place, name, into_nodes=into_nodes)


def _check_inside(path: Any, source: object, where: str) -> None:
    inside = isinstance(path, str) and path not in ("", ".")
    if inside:
        posix, windows = PurePosixPath(path), PureWindowsPath(path)
        parts = {*posix.parts, *windows.parts}
        absolute = posix.is_absolute() or bool(windows.anchor) or path.startswith("~")
        inside = not absolute and ".." not in parts and "\0" not in path
    if not inside:
        raise ValueError(
            f"{source} must name a folder inside the model folder as {where}.path, got "
            f"{_shortened(path)}"
        )


def _check_home(name: str, packages: Sequence[str], source: object, where: str) -> None:
    """Reject names that an allowed package only imports from a package that is not allowed."""
    home = str(getattr(target_of(name, source=source, where=where), "__module__", None))
    if not any(home == package or home.startswith(f"{package}.") for package in packages):
        raise ValueError(
            f"{source} names {name} at {where}.{TARGET}, which is not defined in an allowed package "
            f"({', '.join(packages)}) but in {home}"
        )


def located(node: Any, folder: Path) -> Any:
    """A copy of the checked ``node`` in which paths of tokenizers are inside ``folder``."""
    if isinstance(node, Mapping):
        inner = {key: located(item, folder) for key, item in node.items()}
        if isinstance(node, Node):
            if node[TARGET] == LOAD_TOKENIZER:
                inner["path"] = str(folder / inner["path"])
            return Node(inner)
        return inner
    return [located(item, folder) for item in node] if isinstance(node, list) else node
