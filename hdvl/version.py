"""The version of hdvl."""

__version__ = "0.1.0"
