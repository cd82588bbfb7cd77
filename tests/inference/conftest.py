"""The saved tiny model."""

from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
