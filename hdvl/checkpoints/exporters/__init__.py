"""Exports models to the formats of other libraries."""

from hdvl.checkpoints.exporters.exporting import export
from hdvl.checkpoints.exporters.vllm import export_for_vllm

FORMATS = {"transformers": export, "vllm": export_for_vllm}

__all__ = ["FORMATS", "export", "export_for_vllm"]
