"""Construction of models and parts on the ``meta`` device, without memory for their weights."""

from typing import Any

import torch

from hdvl.config import build, resolve
from hdvl.plain import without_weights


def on_meta(node: Any) -> Any:
    """Build the model or part of a config ``node`` on the ``meta`` device, without reading weights.

    A plain ``node`` must already be resolved.
    """
    plain = node if isinstance(node, dict) else resolve(node)
    with torch.device("meta"):
        return build(without_weights(plain))
