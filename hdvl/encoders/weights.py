"""Weights from a local folder or file, fitted key by key; the hub only when ``hub:`` says so."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from hdvl.weights import INDEX, PICKLED, SAFE, misfits, read_index, refuse

HUB = "hub:"
HUB_FILES = (SAFE, f"{SAFE}{INDEX}", PICKLED, f"{PICKLED}{INDEX}")
"""The files that published transformers models keep their weights in, whole or as shards."""


def locate(weights: str | Path, files: Sequence[str]) -> Path:
    """The weight file that ``weights`` means: a file, a folder, or ``hub:owner/name``.

    In a folder it is the first of ``files`` that is there, or the only ``.safetensors``.

    Raises:
        FileNotFoundError: no such path, or no single weight file in the folder.
    """
    if isinstance(weights, str) and weights.startswith(HUB):
        from huggingface_hub import snapshot_download

        patterns = [*files, "*.safetensors", "*.json"]
        weights = snapshot_download(weights.removeprefix(HUB), allow_patterns=patterns)
    path = Path(weights)
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"weights must be a file or folder, got {str(weights)!r}")
    named = [path / name for name in files if (path / name).is_file()]
    found = named or sorted(path.glob("*.safetensors"))
    if not named and len(found) != 1:
        raise FileNotFoundError(
            f"weights folder must hold one of {', '.join(files)}, or one .safetensors, got "
            f"{len(found)} .safetensors in {path}; name the file"
        )
    return found[0]


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, a torch pickle, or an ``.index.json`` of shards.

    Raises:
        ValueError: a pickle that holds more than plain tensors.
    """
    if path.suffix == ".json":
        shards = sorted(set(read_index(path).values()))
        return {key: value for name in shards for key, value in read(path.parent / name).items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"weights must be plain tensors, {path} is not: {error}; convert it to safetensors"
        ) from error
    state = state.get("state_dict", state)  # a training checkpoint, with its optimizer beside it
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights must be a dict of tensors, {path} holds {sorted(state)[:8]}")
    return dict(state)


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it; all of them if none does."""
    inner = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    return inner or dict(state)


def fit(
    model: nn.Module, state: Mapping[str, Tensor], *, known: Collection[str], source: object
) -> None:
    """Load ``state`` into ``model``, whose whole (with the parts left out) has the keys ``known``.

    Raises:
        ValueError: keys are missing, surplus (not ``known``) or of another shape; all are listed.
    """
    own = model.state_dict()
    wanted, found = (
        {key: tuple(value.shape) for key, value in tensors.items()} for tensors in (own, state)
    )
    refuse(misfits(wanted, found, known=known), f"weights must fit the encoder, {source} does not")
    model.load_state_dict({key: state[key] for key in own})
