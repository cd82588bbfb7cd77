"""A server with the API of OpenAI for models of hdvl, on the engine."""

from hdvl.serving.app import create_app
from hdvl.serving.served import ServedModel
from hdvl.serving.settings import Settings

__all__ = ["ServedModel", "Settings", "create_app"]
