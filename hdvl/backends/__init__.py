"""What answers the rows of ``hdvl infer inputs=...``: a model in this process, or a server that runs already.

Many machines are in :mod:`hdvl.integrations.ray`. Each is a choice of the config group ``engine``.
"""

from hdvl.backends.base import Backend, Job, Row
from hdvl.backends.local import LocalBackend
from hdvl.backends.openai import OpenAIBackend

__all__ = ["Backend", "Job", "LocalBackend", "OpenAIBackend", "Row"]
