"""Loads a pipeline from a model folder, or a shipped model by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.importers.conversion import load_opened, open_published
from hdvl.checkpoints.native import model_node, override
from hdvl.checkpoints.nodes import Node, marked
from hdvl.checkpoints.sources import find_folder, is_published
from hdvl.inference.confidence import Calibration
from hdvl.inference.familiarity import Familiarity
from hdvl.inference.pipeline import Pipeline
from hdvl.inference.recompose import recompose, replaced_parts, split
from hdvl.inputs import check_checkpoint
from hdvl.model import VLM
from hdvl.placement import place as place_on_devices
from hdvl.precision import converted
from hdvl.quantisation import quantise_llm


def load(
    source: str | Path | Mapping[str, str | Path],
    *,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    offload_folder: str | None = None,
    dtype: str | None = None,
    max_length: int | None = None,
    engine: Mapping[str, Any] | None = None,
    quantisation: str | None = None,
    allow: str | Sequence[str] = (),
    tiler_follows: bool = False,
    **overrides: Any,
) -> Pipeline:
    """Load a saved model as a pipeline.

    >>> load("runs/docs", device="cuda", tiler={"max_tiles": 12})  # doctest: +SKIP

    Args:
        source: a model folder; the folder of a run, for its trained model; ``hdvl/small``, the model
            that is shipped with this package; or a model as others published it (docs/checkpoints.md),
            in a folder or in parts.
        device: the device of the model; ``None`` for the CPU.
        device_map: in place of ``device``, where layers of the language model are: ``auto``, or modules and
            their devices (:func:`hdvl.placement.place`). Answers do not change.
        max_memory: for ``device_map="auto"``, the most memory of weights on each device.
        offload_folder: where layers on the disk are written.
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``None`` for the stored dtype, or for a published
            model the one of most weights.
        max_length: most ids of a prompt.
        engine: options of the engine, see :class:`Pipeline`.
        quantisation: ``int8`` or ``nf4`` rounds the weights of the language model to 8 or 4 bits
            (:mod:`hdvl.quantisation`); None keeps them.
        allow: packages whose classes the folder may name, such as ``["mypkg"]``, and whose code is then
            imported and called. Otherwise a folder may only name parts of hdvl.
        tiler_follows: whether a tiler in ``overrides`` takes the tile size of the model's encoder.
        **overrides: values of the model's parts to change; a mapping with ``_target_`` replaces
            the part, which then does not keep its weights (:mod:`hdvl.inference.recompose`).

    Raises:
        ValueError: there is no such folder or model, it names classes that are neither hdvl's nor allowed,
            or the weights do not fit.
    """
    torch_dtype = as_dtype(dtype)
    _check_alone(device_map, device=device, quantisation=quantisation)
    if not isinstance(source, Mapping):
        check_checkpoint(str(source), "model")
    place = source if isinstance(source, Mapping) else find_folder(source)
    vlm = _read(place, overrides, torch_dtype, allow, tiler_follows)
    vlm = converted(vlm, dtype=torch_dtype, device=device)
    if quantisation is not None:
        quantise_llm(vlm.llm, quantisation)
    if device_map is not None:
        place_on_devices(vlm, device_map, max_memory=max_memory, offload_folder=offload_folder)
    pipe = Pipeline(model=vlm, max_length=max_length, engine=engine)
    if isinstance(place, Path) and not overrides:  # with other parts or values the tokens differ
        pipe.familiarity = Familiarity.read(place)
        pipe.calibration = Calibration.read(place)
    return pipe


def _read(
    source: Path | Mapping[str, str | Path],
    overrides: dict[str, Any],
    dtype: torch.dtype | None,
    allow: str | Sequence[str],
    tiler_follows: bool,
) -> VLM:
    later = tiler_follows or replaced_parts(overrides)
    early, late = split(overrides) if later else (overrides, {})
    published = isinstance(source, Mapping) or is_published(source)
    if published:
        opened = open_published(source, overrides=early, dtype=dtype)
        vlm, node = load_opened(opened, source), opened.node
    else:
        assert isinstance(source, Path)
        vlm = load_folder(source, overrides=early, allow=allow)
        node = Node(override(model_node(source, allow=allow), marked(early))) if late else Node()
    if not late:
        return vlm
    return recompose(vlm, node, late, source=source, tiler_follows=tiler_follows)


def _check_alone(device_map: Any, **others: str | None) -> None:
    for name, value in others.items():
        if device_map is not None and value is not None:
            raise ValueError(f"device_map cannot be combined with {name}; leave one of them out")


def as_dtype(name: str | None) -> torch.dtype | None:
    """Return the torch dtype called ``name``."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is not None and name not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)} or null, got {name!r}")
    return None if name is None else known[name]
