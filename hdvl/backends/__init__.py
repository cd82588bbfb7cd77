"""Backends that answer the rows of ``hdvl infer inputs=...``: a model in this process, or a running server.

Ray Data is in :mod:`hdvl.integrations.ray`. Each backend is a choice of the config group ``engine``.
"""

from hdvl.backends.base import Backend, Job, Row
from hdvl.backends.local import LocalBackend
from hdvl.backends.openai import OpenAIBackend

__all__ = ["Backend", "Job", "LocalBackend", "OpenAIBackend", "Row"]
