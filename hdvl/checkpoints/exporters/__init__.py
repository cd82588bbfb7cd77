"""Models of hdvl as others read them."""

from hdvl.checkpoints.exporters.exporting import FORMATS, export

__all__ = ["FORMATS", "export"]
