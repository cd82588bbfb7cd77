"""Composed models in vLLM: the entry point ``vllm.general_plugins`` registers their architecture.

vLLM runs the language model by its own class; images are tiled, encoded and arranged by hdvl's parts. The
folders are written by ``hdvl export format=vllm``, see ``docs/serving.md``.
"""

ARCHITECTURE = "HdvlForConditionalGeneration"


def register() -> None:
    """Register the configuration and the model. vLLM calls this in each of its processes."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from hdvl.integrations.vllm.config import HdvlConfig

    AutoConfig.register(HdvlConfig.model_type, HdvlConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"hdvl.integrations.vllm.model:{ARCHITECTURE}")
