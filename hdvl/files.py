"""JSON and YAML files that may have been written by anyone: bounded in size, depth and time."""

import json
from pathlib import Path
from typing import Any

import yaml

LARGEST_JSON = 256_000_000
LARGEST_YAML = 2_000_000
MOST_VALUES = 1_000_000
"""Values of a YAML file after its aliases are written out: a few lines of aliases can stand for billions."""
DEEPEST = 64
_LONGEST_NUMBER = 400  # characters; reading a number takes time that grows with the square of them


def read_json(file: Path) -> Any:
    """The values in a JSON file.

    Raises:
        ValueError: the file is too large, is no UTF-8 or no JSON, or is nested too deeply.
    """
    text = _read_text(file, LARGEST_JSON)
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_too_deep(file)) from None
    except ValueError as error:
        raise ValueError(
            f"{str(file)!r} must be JSON, it is not: {error}; copy it again"
        ) from error
    _check_depth(value, file)
    return value


def read_yaml(file: Path) -> Any:
    """The values in a YAML file, which may hold plain data only.

    Raises:
        ValueError: the file is too large, is no UTF-8 or no plain YAML, is nested too deeply, or
            stands for more than ``MOST_VALUES`` values by its aliases.
    """
    text = _read_text(file, LARGEST_YAML)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node, file)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(_too_deep(file)) from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, _Refused):
            raise
        raise ValueError(
            f"{str(file)!r} must be plain YAML, it is not: {error}; copy it again"
        ) from error
    finally:
        loader.dispose()


class _Refused(ValueError):
    """A refusal that names its file already."""


def _read_text(file: Path, largest: int) -> str:
    if not file.is_file():
        raise ValueError(f"{str(file)!r} must be a file, it is not; copy the folder whole")
    size = file.stat().st_size
    if size > largest:
        raise ValueError(f"{str(file)!r} must have at most {largest} bytes, it has {size}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(file)!r} must be UTF-8, it is not: {error}; copy it again"
        ) from error


def _too_deep(file: Path) -> str:
    return f"{str(file)!r} must be nested at most {DEEPEST} levels deep, it is nested deeper"


def _check_depth(value: Any, file: Path) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(_too_deep(file))


def _check_nodes(root: Any, file: Path) -> None:
    """Count the values that the node graph of a YAML file stands for, each node looked at once."""
    counts: dict[
        int, int | None
    ] = {}  # None: the node is being counted, so an alias is inside itself

    def count(node: Any, depth: int) -> int:
        if depth > DEEPEST:
            raise _Refused(_too_deep(file))
        known = counts.get(id(node), 0)
        if known is None:
            raise _Refused(f"{str(file)!r} must be plain YAML, an alias in it holds itself")
        if known:
            return known
        counts[id(node)] = None
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        total = 1 + sum(count(part, depth + 1) for part in inner)
        if total > MOST_VALUES:
            raise _Refused(
                f"{str(file)!r} must stand for at most {MOST_VALUES} values, its aliases stand for more"
            )
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > _LONGEST_NUMBER:
            raise _Refused(f"{str(file)!r} must hold shorter numbers, got {node.value[:20]}...")
        counts[id(node)] = total
        return total

    count(root, 0)
