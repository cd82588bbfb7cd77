"""LLaVA-1.5 and LLaVA-OneVision in the layout of transformers.

Liu et al., arXiv 2310.03744 (``LlavaForConditionalGeneration``), and Li et al., arXiv 2408.03326
(``LlavaOnevisionForConditionalGeneration``).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers import transformers_layout as layout
from hdvl.checkpoints.importers.llava_images import any_resolution, one_view
from hdvl.checkpoints.importers.llava_layout import LlavaImporter
from hdvl.checkpoints.nodes import Node

_ASPECT = re.compile(r"anyres_max_([1-9]\d*)")


class Llava(LlavaImporter):
    """Folders whose ``model_type`` is ``llava``: one view of each image."""

    name = model_type = "llava"
    preset = "llava_1_5"

    def fill_images(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        node["tiler"] |= one_view(settings, hf_config.vision_config.image_size, source=folder)


class LlavaOnevision(LlavaImporter):
    """Folders whose ``model_type`` is ``llava_onevision``: tiles for one image, one view each for several."""

    name = model_type = "llava_onevision"
    preset = "llava_onevision"

    def fill_images(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        side, pinpoints = hf_config.vision_config.image_size, hf_config.image_grid_pinpoints
        node["tiler"] |= any_resolution(settings, pinpoints, side, source=folder)
        ratio = hf_config.vision_aspect_ratio
        processor = layout.processor_settings(folder).get("vision_aspect_ratio", ratio)
        limit = _ASPECT.fullmatch(ratio)
        if limit is None or processor != ratio:
            raise ValueError(
                f"vision_aspect_ratio of {folder} must be anyres_max_N, the same in the model and in the "
                f"processor, got {ratio!r} and {processor!r}"
            )
        node["merger"]["shrink_above"] = int(limit[1])
