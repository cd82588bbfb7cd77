"""The pipeline that the config of a command asks for: a checkpoint with changes, or new parts."""

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
    """Whether a new model is asked for: no checkpoint, or a part with weights and no checkpoint said."""
    if cfg["checkpoint"] is None:
        return True
    chosen = [key for key in keys if key in GROUPS_WITH_WEIGHTS]
    if "checkpoint" not in keys:
        return bool(chosen)
    if "model" in keys:
        raise ValueError(
            f"model= composes a new model, checkpoint={cfg['checkpoint']} has its own; leave one out"
        )
    return False


@contextmanager
def collector_paused() -> Iterator[None]:
    """Context without garbage collection: importing libraries makes objects that all stay."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@collector_paused()
def pipeline_of(cfg: Mapping[str, Any], overrides: Sequence[str]) -> "Pipeline":
    """The checkpoint with its changes, or a composition with random weights and a warning on stderr."""
    keys = keys_of(overrides)
    if not is_composition(cfg, keys):
        from hdvl.inference.load import load

        return load(
            cfg["checkpoint"],
            device=cfg["device"],
            dtype=cfg["dtype"],
            max_length=cfg["max_length"],
            engine=cfg.get("engine"),
            quantisation=cfg.get("quantisation"),
            allow=cfg.get("allow", ()),
            tiler_follows=tiler_follows(keys),
            **changes_of(cfg, keys),
        )
    import torch

    from hdvl.inference import Pipeline
    from hdvl.inference.load import as_dtype
    from hdvl.precision import converted

    print(RANDOM, file=sys.stderr)
    torch.manual_seed(cfg["seed"])
    vlm = converted(build(cfg["model"]), dtype=as_dtype(cfg["dtype"]), device=cfg["device"])
    return Pipeline(model=vlm, max_length=cfg["max_length"], engine=cfg.get("engine"))
