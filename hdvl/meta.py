"""Models and parts on the ``meta`` device: shapes and counts of any size, without weights or memory."""

from typing import Any

import torch

from hdvl.config import build, resolve
from hdvl.plain import without_weights


def on_meta(node: Any) -> Any:
    """What a config ``node`` describes, a model or a part, on the ``meta`` device. No weights are read.

    A plain ``node`` is taken to be resolved, as commands and stages hand it on.
    """
    plain = node if isinstance(node, dict) else resolve(node)
    with torch.device("meta"):
        return build(without_weights(plain))
