"""Importers of published models: each layout is recognised, checked key by key, and loaded or converted."""

from hdvl.checkpoints.importers.conversion import convert, load_published
from hdvl.checkpoints.importers.registry import IMPORTERS, detect

__all__ = ["IMPORTERS", "convert", "detect", "load_published"]
