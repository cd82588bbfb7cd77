"""Finds the weight files of a folder, and checks that stored tensors fit a model, for every layout."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hdvl.files import read_json

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
"""The suffix of an index, after the name of the file that it replaces."""

_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.(?P<kind>safetensors|bin)")
_MOST_SHARDS = 100_000
Shape = tuple[int, ...]


def find_weights(
    folder: Path, names: Sequence[str] = (SAFE, PICKLED), *, others: bool = True
) -> tuple[list[Path], dict[str, str]]:
    """Return the weight files in ``folder``, and the file name of each tensor according to an index.

    Args:
        folder: the folder to search.
        names: names of weight files in the order of preference. An index is preferred to its file.
        others: whether to use numbered files without an index, or else a single ``.safetensors`` file, if
            none of ``names`` is found.

    Returns:
        The files, some of which may not exist, and file names by tensor. Both are empty if nothing is found.

    Raises:
        ValueError: an index cannot be read, or names files outside of ``folder``.
    """
    for name in names:
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            indexed = read_index(index)
            return sorted({folder / file for file in indexed.values()}), indexed
        if (folder / name).is_file():
            return [folder / name], {}
    return (_other_weights(folder, names) if others else []), {}


def _other_weights(folder: Path, names: Sequence[str]) -> list[Path]:
    for kind in sorted({name.rpartition(".")[2] for name in names}, reverse=True):
        found = (_NUMBERED.fullmatch(path.name) for path in sorted(folder.glob(f"*.{kind}")))
        first = next((match for match in found if match), None)
        if first is not None:
            return [folder / name for name in _all_of(first, folder)]
    alone = sorted(folder.glob("*.safetensors"))
    return alone if len(alone) == 1 else []


def _all_of(first: re.Match[str], folder: Path) -> list[str]:
    width, count = len(first["number"]), int(first["count"][:9])
    if count > _MOST_SHARDS:
        raise ValueError(
            f"weights in {str(folder)!r} must be in fewer files, {first[0]} says {count}"
        )
    return [
        f"{first['stem']}-{number:0{width}d}-of-{first['count']}.{first['kind']}"
        for number in range(1, count + 1)
    ]


def read_index(file: Path) -> dict[str, str]:
    """Return the file name of each tensor according to the index ``file``.

    Raises:
        ValueError: the index cannot be read, or names files in another folder.
    """
    index = read_json(file)
    indexed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(indexed, dict) or not all(isinstance(v, str) for v in indexed.values()):
        raise ValueError(
            f"index {str(file)!r} must be JSON with a weight_map of file names, it is not; copy it again"
        )
    outside = sorted({name for name in indexed.values() if not _is_beside(name)})
    if outside:
        raise ValueError(f"index {str(file)!r} must name files beside it, got {outside}")
    return indexed


def _is_beside(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0", ":"}


def misfits(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], *, known: Collection[str] = ()
) -> dict[str, list[str]]:
    """Return the differences between stored tensors and those of a model, by kind of fault.

    Args:
        expected: names and shapes of the tensors of the model.
        found: names and shapes of the stored tensors.
        known: names that may be stored although the model does not have them.
    """
    return {
        "missing": sorted(set(expected) - set(found)),
        "surplus": sorted(set(found) - set(expected) - set(known)),
        "misshapen": [
            f"{name} {found[name]} for {expected[name]}"
            for name in sorted(set(expected) & set(found))
            if found[name] != expected[name]
        ],
    }


def refuse(
    faults: Mapping[str, Sequence[str]], rule: str, *, most: int | None = None, advice: str = ""
) -> None:
    """Raise a ``ValueError`` that states the ``rule`` and lists the ``faults``, unless there are none.

    Of each kind at most ``most`` are listed, with their number. The message ends with ``advice``.
    """
    if any(faults.values()):
        listed = "; ".join(_listed(kind, keys, most) for kind, keys in faults.items() if keys)
        raise ValueError(f"{rule}: {listed}{advice}")


def _listed(kind: str, keys: Sequence[str], most: int | None) -> str:
    if most is None or len(keys) <= most:
        return f"{kind}: {', '.join(keys)}"
    return f"{kind} ({len(keys)}): {', '.join(keys[:most])}, ..."
