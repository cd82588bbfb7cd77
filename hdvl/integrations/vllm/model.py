"""The architecture that vLLM runs: hdvl's encoder, bridge and merger before a language model of vLLM."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from hdvl.checkpoints.shards import check_keys
from hdvl.checkpoints.skeleton import fill
from hdvl.integrations.vllm.processing import (
    HdvlDummyInputs,
    HdvlMultiModalProcessor,
    HdvlProcessingInfo,
    read_on_meta,
)
from hdvl.integrations.vllm.tiles import unpacked
from hdvl.model import VLM
from hdvl.precision import converted
from hdvl.views import join_pixels

_LLM = "llm.model."
_LANGUAGE_MODEL = "language_model."


@MULTIMODAL_REGISTRY.register_processor(
    HdvlMultiModalProcessor, info=HdvlProcessingInfo, dummy_inputs=HdvlDummyInputs
)
class HdvlForConditionalGeneration(nn.Module, SupportsMultiModal):  # type: ignore[misc]
    """A composed model in vLLM.

    Attributes:
        vision: the model of hdvl without its language model.
        language_model: the language model, a class of vLLM.
    """

    vision: VLM
    language_model: Any

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Nothing: the chat template of the folder writes the image tokens."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model_config = vllm_config.model_config
        config = model_config.hf_config
        self.config, self.dtype = config, model_config.dtype
        interface: Any = self  # to type checkers the attributes of a module are tensors or modules
        interface.configure_mm_token_handling(
            config.text_config.vocab_size, [config.image_token_id]
        )
        with interface._mark_tower_model(vllm_config, "image"):
            self.vision = _without_llm(model_config.model)
        with interface._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )

    def embed_multimodal(self, **kwargs: Any) -> list[Float[Tensor, "_m e"]]:
        """The visual tokens of each image, in the order of the merger."""
        if kwargs.get("pixels") is None:
            return []
        images = [
            unpacked(pixels, plan)
            for pixels, plan in zip(kwargs["pixels"], kwargs["plan"], strict=True)
        ]
        pixels = join_pixels([pixels for pixels, _ in images])
        return self.vision.encode_images(pixels, [plan for _, plan in images])

    def forward(
        self,
        input_ids: Int[Tensor, " s"] | None,
        positions: Int[Tensor, " s"],
        intermediate_tensors: Any = None,
        inputs_embeds: Float[Tensor, "s e"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The hidden states of the language model."""
        return self.language_model.model(
            input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """The logits (s, v) of hidden states (s, e)."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the tensors of the folder: the language model by vLLM, the other parts by hdvl.

        Returns:
            The names of the loaded parameters.

        Raises:
            ValueError: tensors of the other parts are missing, surplus or of another shape.
        """
        own = dict[str, Tensor]()

        def of_language_model() -> Iterator[tuple[str, Tensor]]:
            for name, value in weights:
                if name.startswith(_LLM):
                    yield name.removeprefix(_LLM), value
                else:
                    own[name] = value

        device = next(self.language_model.parameters()).device
        loaded = AutoWeightsLoader(self.language_model).load_weights(of_language_model())
        shapes = {name: tuple(value.shape) for name, value in own.items()}
        check_keys(self.vision, shapes, source="the folder")
        fill(self.vision, iter(own.items()))
        converted(self.vision, dtype=self.dtype, device=device).requires_grad_(False)
        names = {f"vision.{name}" for name, _ in self.vision.named_parameters()}
        return names | {f"{_LANGUAGE_MODEL}{name}" for name in loaded}


def _without_llm(folder: str) -> VLM:
    """The model in ``folder`` without its language model, with parameters on ``meta``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # vLLM sets its own, in which tables would be rounded
    try:
        vlm = read_on_meta(folder)
    finally:
        torch.set_default_dtype(before)
    del vlm.llm
    return vlm.eval()
