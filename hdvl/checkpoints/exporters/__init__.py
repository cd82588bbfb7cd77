"""Exports models to the formats of other libraries."""

from hdvl.checkpoints.exporters.exporting import FORMATS, export

__all__ = ["FORMATS", "export"]
