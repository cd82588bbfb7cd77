"""The list of importers, and the choice of the one for a folder."""

from collections.abc import Mapping
from pathlib import Path

from hdvl.checkpoints.importers.aya_vision import AyaVision
from hdvl.checkpoints.importers.base import CONFIG, CheckpointSource, Importer, read_json
from hdvl.checkpoints.importers.idefics3 import Idefics3, SmolVLM
from hdvl.checkpoints.importers.internvl_chat import InternVLChat
from hdvl.checkpoints.importers.internvl_hf import InternVLHF
from hdvl.checkpoints.importers.lfm2_vl import Lfm2Vl
from hdvl.checkpoints.importers.llava import Llava, LlavaOnevision
from hdvl.checkpoints.importers.llava_next import LlavaNext
from hdvl.checkpoints.importers.qwen_vl import BelleVL, CatVision, QwenVL
from hdvl.checkpoints.importers.xverse_v import XverseV

_ALL = (
    *(XverseV(), QwenVL(), InternVLChat(), BelleVL(), CatVision()),
    *(LlavaNext(), Llava(), LlavaOnevision(), InternVLHF(), AyaVision(), Idefics3(), SmolVLM()),
    Lfm2Vl(),
)
IMPORTERS: dict[str, Importer] = {importer.name: importer for importer in _ALL}


def importer_of(source: CheckpointSource, name: str | None = None) -> Importer:
    """The importer called ``name``, or the one that recognises ``source``.

    Raises:
        ValueError: there is no such importer or no such folder, or no importer recognises it.
    """
    known = ", ".join(IMPORTERS)
    if name is not None and name not in IMPORTERS:
        raise ValueError(f"from must be one of {known}, got {name!r}")
    absent = [str(path) for path in _paths(source) if not path.exists()]
    if absent:
        raise ValueError(
            f"published model must exist, {', '.join(absent)} does not; check the path"
        )
    if name is not None:
        return IMPORTERS[name]
    found = detect(source)
    if found is None:
        raise ValueError(
            f"{describe_source(source)} has no published layout that hdvl knows, which are: {known}; "
            "give the folder that holds config.json and the weights, or set from="
        )
    return IMPORTERS[found]


def detect(source: CheckpointSource) -> str | None:
    """The name of the importer that recognises ``source``; None if none does."""
    if isinstance(source, Mapping):
        found = [item for item in IMPORTERS.values() if set(item.parts) == set(source)]
    elif source.is_dir():
        config = read_json(source / CONFIG) if (source / CONFIG).is_file() else {}
        inside = [*source.iterdir(), *source.glob("*/*")]
        files = sorted(path.relative_to(source).as_posix() for path in inside)
        found = [item for item in IMPORTERS.values() if item.recognises(config, files)]
    else:
        return None
    if len(found) > 1:
        names = ", ".join(item.name for item in found)
        raise ValueError(
            f"{describe_source(source)} is recognised by several importers, {names}; set from= to one of them"
        )
    return found[0].name if found else None


def _paths(source: CheckpointSource) -> list[Path]:
    return list(source.values()) if isinstance(source, Mapping) else [source]


def describe_source(source: CheckpointSource) -> str:
    """``source`` for a message."""
    if isinstance(source, Mapping):
        return f"{{{', '.join(f'{key}: {path}' for key, path in source.items())}}}"
    return f"folder {str(source)!r}"
