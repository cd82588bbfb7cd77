"""Weight files of a folder, and whether stored tensors fit a model: the same for every layout."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hdvl.files import read_json

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
"""What an index is called: the name of the file that it stands for, and this."""

_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.(?P<kind>safetensors|bin)")
_MOST_SHARDS = 100_000
Shape = tuple[int, ...]


def find_weights(
    folder: Path, names: Sequence[str] = (SAFE, PICKLED), *, others: bool = True
) -> tuple[list[Path], dict[str, str]]:
    """The weight files in ``folder``, and the file name that an index gives for each tensor.

    ``names`` are looked for in their order, the index of each before the file. With ``others`` numbered
    files without an index count too, all of which must be there, and else a single ``.safetensors``.
    The list is empty where there is none; it may name files that are not there.

    Raises:
        ValueError: an index that cannot be read, or names files outside of ``folder``.
    """
    for name in names:
        index = folder / f"{name}{INDEX}"
        if index.is_file():
            promised = read_index(index)
            return sorted({folder / file for file in promised.values()}), promised
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
    """The name of the file that holds each tensor, as the index ``file`` says.

    Raises:
        ValueError: no such index, or it names files that do not lie beside it.
    """
    index = read_json(file)
    promised = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(promised, dict) or not all(isinstance(v, str) for v in promised.values()):
        raise ValueError(
            f"index {str(file)!r} must be JSON with a weight_map of file names, it is not; copy it again"
        )
    outside = sorted({name for name in promised.values() if not _is_beside(name)})
    if outside:
        raise ValueError(f"index {str(file)!r} must name files beside it, got {outside}")
    return promised


def _is_beside(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0", ":"}


def misfits(
    wanted: Mapping[str, Shape], found: Mapping[str, Shape], *, known: Collection[str] = ()
) -> dict[str, list[str]]:
    """What keeps stored tensors from being those of a model, by the kind of fault.

    ``known`` are names that may be stored though this model does not want them.
    """
    return {
        "missing": sorted(set(wanted) - set(found)),
        "surplus": sorted(set(found) - set(wanted) - set(known)),
        "misshapen": [
            f"{name} {found[name]} for {wanted[name]}"
            for name in sorted(set(wanted) & set(found))
            if found[name] != wanted[name]
        ],
    }


def refuse(faults: Mapping[str, Sequence[str]], said: str) -> None:
    """Raise a ``ValueError`` that says ``said`` and lists the ``faults``, unless there are none."""
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in faults.items() if keys)
        raise ValueError(f"{said}: {listed}")
