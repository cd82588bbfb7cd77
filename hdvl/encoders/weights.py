"""Loading of weights from a local file or folder, or from the hub for names that begin with ``hub:``."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from hdvl.weights import INDEX, PICKLED, SAFE, misfits, read_index, refuse

HUB = "hub:"
LISTED = 5
"""Number of names of each kind that a message lists."""
Rename = Mapping[str, str] | str | None
HUB_FILES = (SAFE, f"{SAFE}{INDEX}", PICKLED, f"{PICKLED}{INDEX}")
"""Names of the weight files of published transformers models, complete or in shards."""


def find_weight_file(weights: str | Path, files: Sequence[str]) -> Path:
    """Return the path of the weight file.

    Args:
        weights: a file, a folder, or ``hub:owner/name``.
        files: file names to look for in the folder, in this order. If none of them exists, the only
            ``.safetensors`` file is used.

    Raises:
        FileNotFoundError: the path does not exist, or the folder has no such file.
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
    actual = named or sorted(path.glob("*.safetensors"))
    if not named and len(actual) != 1:
        raise FileNotFoundError(
            f"weights folder must hold one of {', '.join(files)}, or one .safetensors, got "
            f"{len(actual)} .safetensors in {path}; name the file"
        )
    return actual[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, a torch pickle, or an ``.index.json`` of shards.

    Raises:
        ValueError: a pickle holds anything other than plain tensors.
    """
    if path.suffix == ".json":
        shards = sorted(set(read_index(path).values()))
        return {
            key: value for name in shards for key, value in read_tensors(path.parent / name).items()
        }
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"weights must be plain tensors, {path} is not: {error}; convert it to safetensors"
        ) from error
    state = state.get("state_dict", state)  # training checkpoints hold the optimizer too
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights must be a dict of tensors, {path} holds {sorted(state)[:8]}")
    return dict(state)


def renamed(state: Mapping[str, Tensor], rename: Rename) -> dict[str, Tensor]:
    """Return the tensors under other names.

    >>> list(renamed({"features.0.weight": torch.zeros(1)}, {r"^features\\.": "blocks."}))
    ['blocks.0.weight']

    Args:
        state: the tensors.
        rename: regular expressions and what :func:`re.sub` puts in their places. Each rule is applied to the
            names that the rules before it gave. May also be the text of a JSON object, for command lines.

    Raises:
        ValueError: a rule is no regular expression or changes no name, or two tensors get one name.
    """
    names = {name: name for name in state}
    for pattern, replacement in _rules(rename).items():
        try:
            changed = {old: re.sub(pattern, replacement, name) for old, name in names.items()}
        except (re.error, IndexError) as error:
            raise ValueError(
                f"encoder.rename must hold regular expressions, {pattern!r}: {replacement!r} is none: {error}"
            ) from error
        if changed == names and state:
            first = ", ".join(list(names.values())[:LISTED])
            raise ValueError(
                f"encoder.rename must change names of the weights, {pattern!r} is in none of the "
                f"{len(names)}: {first}, ..."
            )
        names = changed
    found: dict[str, Tensor] = {}
    for old, new in names.items():
        if new in found:
            raise ValueError(
                f"encoder.rename must keep names apart, it gives two tensors the name {new}, one of them "
                f"was {old}"
            )
        found[new] = state[old]
    return found


def _rules(rename: Rename) -> dict[str, str]:
    try:
        rules = json.loads(rename) if isinstance(rename, str) else dict(rename or {})
    except ValueError as error:
        raise ValueError(
            f"encoder.rename must be a mapping, as text a JSON object, got {rename!r}: {error}"
        ) from error
    if not isinstance(rules, dict) or not all(isinstance(text, str) for text in rules.values()):
        raise ValueError(f"encoder.rename must map regular expressions to text, got {rename!r}")
    return rules


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, without it; all tensors if none does."""
    inner = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
    return inner or dict(state)


def load_exactly(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    known: Collection[str],
    source: object,
    renames: bool = False,
) -> None:
    """Load ``state`` into ``model``.

    Args:
        model: the model, from which unused modules were removed.
        known: the keys of the complete model; keys of removed modules are ignored.
        source: where ``state`` comes from, for the message.
        renames: whether the encoder has a ``rename``, which the message then advises.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; the message lists the first.
    """
    own = model.state_dict()
    expected, actual = (
        {key: tuple(value.shape) for key, value in tensors.items()} for tensors in (own, state)
    )
    refuse(
        misfits(expected, actual, known=known),
        f"weights must fit the encoder, {source} does not",
        most=LISTED,
        advice="; encoder.rename changes names" if renames else "",
    )
    model.load_state_dict({key: state[key] for key in own})
