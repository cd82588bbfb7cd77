"""What a training changed, without the rest: a small folder that names the model it belongs to.

::

    adapter.yaml             the base, hashes of it, and the tuning: plain data
    adapter.safetensors      every tensor that the training might move, under the tuned model's names
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from hdvl.checkpoints import load_folder
from hdvl.model import VLM
from hdvl.training.audit import declared_tensors, fingerprint, shorten
from hdvl.training.tuning import apply_tuning

CONFIG, TENSORS = "adapter.yaml", "adapter.safetensors"


def save_adapters(
    vlm: nn.Module, folder: str | Path, *, tuning: Mapping[str, Any], base: str | Path
) -> Path:
    """Write what ``tuning`` declared of ``vlm``, not merged yet, to the new ``folder``.

    ``base`` is the model folder that the training began with. It is named, not copied.

    Raises:
        ValueError: the folder is there already.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"adapters must go to a new folder, {str(folder)!r} exists")
    state, declared = vlm.state_dict(), declared_tensors(vlm, tuning)
    plain = {
        "format": 1,
        "base": str(base),
        "frozen": _hash_of_the_rest(vlm, declared),
        "tuning": dict(tuning),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        # Tied tensors stand under each of their names.
        save_file({name: state[name].clone().cpu() for name in sorted(declared)}, written / TENSORS)
        (written / CONFIG).write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        os.replace(written, folder)
    finally:
        shutil.rmtree(written, ignore_errors=True)
    return folder


def load_adapters(folder: str | Path, *, base: str | Path | None = None) -> tuple[VLM, Any]:
    """The base model with the adapters of ``folder`` on it, not merged, and their tuning.

    ``base`` is where the base lies now, if it is not where it was.

    Raises:
        ValueError: no such folder, another base, or tensors that do not fit; they are named.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"adapters must be a folder with {CONFIG}, {str(folder)!r} has none")
    plain: dict[str, Any] = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    place = plain["base"] if base is None else base
    vlm = load_folder(place)
    apply_tuning(vlm, plain["tuning"])
    stored, declared = load_file(folder / TENSORS), declared_tensors(vlm, plain["tuning"])
    if stored.keys() != declared:
        raise ValueError(
            f"adapters in {str(folder)!r} must fit the model in {str(place)!r}, they differ in "
            f"{shorten(set(stored) ^ declared)}"
        )
    if _hash_of_the_rest(vlm, declared) != plain["frozen"]:
        raise ValueError(
            f"adapters in {str(folder)!r} belong to the model that lay in {plain['base']!r}, "
            f"{str(place)!r} is another; give its folder as base"
        )
    vlm.load_state_dict(vlm.state_dict() | stored)
    vlm.eval()
    return vlm, plain["tuning"]


def _hash_of_the_rest(vlm: nn.Module, declared: set[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(vlm.state_dict().items()):
        if name not in declared:
            digest.update(f"{name} {fingerprint(tensor)}\n".encode())
    return digest.hexdigest()
