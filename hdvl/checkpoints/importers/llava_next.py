"""LLaVA-NeXT (LLaVA-1.6) in the layout of transformers, ``LlavaNextForConditionalGeneration``.

https://llava-vl.github.io/blog/2024-01-30-llava-next
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers.llava_images import any_resolution
from hdvl.checkpoints.importers.llava_layout import LlavaImporter
from hdvl.checkpoints.nodes import Node


class LlavaNext(LlavaImporter):
    """Folders whose ``model_type`` is ``llava_next``, with a CLIP or SigLIP tower."""

    name = model_type = "llava_next"
    preset = "llava_next"

    def fill_images(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        side, pinpoints = hf_config.vision_config.image_size, hf_config.image_grid_pinpoints
        node["tiler"] |= any_resolution(settings, pinpoints, side, source=folder)
