"""The saved tiny model."""

from tiny_model import tiny_folder

__all__ = ["tiny_folder"]
