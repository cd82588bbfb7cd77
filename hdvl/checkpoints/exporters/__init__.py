"""Exports models to the formats of other libraries."""

from collections.abc import Callable

from hdvl.checkpoints.exporters.exporting import export
from hdvl.checkpoints.exporters.target import Exported
from hdvl.checkpoints.exporters.vllm import export_for_vllm

FORMATS: dict[str, Callable[..., Exported]] = {"transformers": export, "vllm": export_for_vllm}
"""What writes each format: a function of a model folder, the folder to write, ``overrides`` and ``allow``."""

__all__ = ["FORMATS", "export", "export_for_vllm"]
