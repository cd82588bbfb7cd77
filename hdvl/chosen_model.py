"""Construction of a command's pipeline from its config: a checkpoint with changes, or a new composition."""

import atexit
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hdvl.composition import changes_of, keys_of, tiler_follows
from hdvl.config import build

if TYPE_CHECKING:
    from hdvl.inference import Pipeline

GROUPS_WITH_WEIGHTS = ("encoder", "bridge", "merger", "llm", "model")
"""Groups whose choice on the command line composes a new model."""

RANDOM = """\
**************************************************************************
*  RANDOM WEIGHTS: this composition was never trained. Its answer shows  *
*  that the parts fit together, and means nothing.                       *
**************************************************************************"""


def is_composition(cfg: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Return whether the command composes a new model.

    It does so without a checkpoint, and also if the overrides choose a part with weights and do not name
    a checkpoint.

    Raises:
        ValueError: both ``model`` and ``checkpoint`` are given.
    """
    if cfg["checkpoint"] is None:
        return True
    chosen = [key for key in keys if key in GROUPS_WITH_WEIGHTS]
    if "checkpoint" not in keys:
        return bool(chosen)
    if "model" in keys:
        raise ValueError(
            f"model= composes a new model, but checkpoint={cfg['checkpoint']} is given too; leave one out"
        )
    return False


@contextmanager
def collector_paused() -> Iterator[None]:
    """Context without garbage collection, because the objects of imported libraries are never freed.

    Nor do later collections look at them, until the process ends.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.freeze()
            # Compiled libraries report objects that are still there when the process ends.
            atexit.register(gc.unfreeze)
            gc.enable()


@collector_paused()
def pipeline_of(cfg: Mapping[str, Any], overrides: Sequence[str]) -> "Pipeline":
    """Load the checkpoint with its changes, or build a composition with random weights.

    For random weights a warning is written to stderr.
    """
    keys = keys_of(overrides)
    engine = {key: value for key, value in (cfg.get("engine") or {}).items() if key != "_target_"}
    if not is_composition(cfg, keys):
        from hdvl.inference.load import load

        return load(
            cfg["checkpoint"],
            device=cfg["device"],
            device_map=cfg.get("device_map"),
            max_memory=cfg.get("max_memory"),
            offload_folder=cfg.get("offload_folder"),
            dtype=cfg["dtype"],
            max_length=cfg["max_length"],
            engine=engine,
            quantisation=cfg.get("quantisation"),
            allow=cfg.get("allow", ()),
            tiler_follows=tiler_follows(keys),
            **changes_of(cfg, keys),
        )
    if cfg.get("device_map") is not None:
        raise ValueError("device_map needs a checkpoint; a new composition goes to device")
    import torch

    from hdvl.inference import Pipeline
    from hdvl.inference.load import as_dtype
    from hdvl.misfits import reported_together
    from hdvl.precision import converted

    torch.manual_seed(cfg["seed"])
    with reported_together(cfg["model"]):
        vlm = build(cfg["model"])
    vlm = converted(vlm, dtype=as_dtype(cfg["dtype"]), device=cfg["device"])
    pipe = Pipeline(model=vlm, max_length=cfg["max_length"], engine=engine)
    print(RANDOM, file=sys.stderr)  # now that the parts are known to fit together
    return pipe
