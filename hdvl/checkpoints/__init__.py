"""Model folders: a model with its configuration, weights, tokenizer, template and model card."""

from hdvl.checkpoints.native import is_model_folder, load_folder, read_config, save_folder
from hdvl.checkpoints.preprocessing import verify

__all__ = ["is_model_folder", "load_folder", "read_config", "save_folder", "verify"]
