"""Models of hdvl as others read them."""

from hdvl.checkpoints.exporters.flow import FORMATS, export

__all__ = ["FORMATS", "export"]
