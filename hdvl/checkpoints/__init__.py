"""Model folders: a model with its configuration, weights, tokenizer, template and model card."""

from hdvl.checkpoints.native import is_model_folder, load_folder, read_config, save_folder
from hdvl.checkpoints.parts import bridge_from, encoder_from, llm_from, merger_from
from hdvl.checkpoints.preprocessing import verify

__all__ = [
    "bridge_from",
    "encoder_from",
    "is_model_folder",
    "llm_from",
    "load_folder",
    "merger_from",
    "read_config",
    "save_folder",
    "verify",
]
