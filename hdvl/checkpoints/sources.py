"""Resolves what a user names as a model: a model folder, a shipped model, a run, or a published model."""

from collections.abc import Sequence
from pathlib import Path

from hdvl.checkpoints.importers import detect, load_published
from hdvl.checkpoints.importers.conversion import open_published
from hdvl.checkpoints.native import RUN_MODEL, is_model_folder, load_folder, model_node
from hdvl.checkpoints.nodes import Node
from hdvl.checkpoints.shards import find_shards, read_shapes, tie_groups
from hdvl.inputs import ASSETS as ASSETS
from hdvl.inputs import SHIPPED, shipped_folder
from hdvl.model import VLM

RUN_CONFIG = "train.yaml"
"""The configuration in a run folder."""


def find_folder(source: str | Path) -> Path:
    """The folder of the model ``source``: a shipped model, the model of a run folder, or the folder itself.

    Raises:
        ValueError: there is no shipped model of that name, or the run has no model yet.
    """
    text = str(source)
    shipped = text.startswith(SHIPPED) and not Path(source).is_dir()
    return shipped_folder(text) if shipped else _model_of_run(Path(source))


def _model_of_run(folder: Path) -> Path:
    if not (folder / RUN_CONFIG).is_file() or is_model_folder(folder):
        return folder
    if is_model_folder(folder / RUN_MODEL):
        return folder / RUN_MODEL
    raise ValueError(
        f"run {str(folder)!r} has no model yet, which is written when the training ends or is stopped; "
        f"resume with: hdvl train resume={folder}"
    )


def is_published(folder: Path) -> bool:
    """Whether ``folder`` holds a model in the layout of another library."""
    if is_model_folder(folder):
        return False
    return (folder / "config.json").is_file() or bool(detect(folder))


def read_model(folder: Path, *, allow: str | Sequence[str] = ()) -> VLM:
    """The model in ``folder``, of hdvl or published, in evaluation mode."""
    return load_published(folder) if is_published(folder) else load_folder(folder, allow=allow)


def read_node(folder: Path, *, allow: str | Sequence[str] = ()) -> Node:
    """The configuration of the model in ``folder``, ready to be built. No weights are read."""
    return open_published(folder).node if is_published(folder) else model_node(folder, allow=allow)


def read_model_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor under the name that hdvl's model has for it."""
    if not is_published(folder):
        return read_shapes(find_shards(folder))
    vlm = open_published(folder).vlm
    state = vlm.state_dict()
    return {name: tuple(state[name].shape) for name in tie_groups(vlm)}
