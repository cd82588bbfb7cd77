"""The ``config.json`` of an exported folder as a configuration of transformers, which vLLM reads."""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig


class HdvlConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of a composed model: that of its language model, and the id of image slots.

    The other parts are described by ``config.yaml`` in the same folder.

    Args:
        text_config: the configuration of the language model.
        image_token_id: the id in the image slots.
        **more: arguments of every configuration of transformers.
    """

    model_type = "hdvl"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012, as the base class declares it

    def __init__(
        self,
        text_config: Mapping[str, Any] | PreTrainedConfig | None = None,
        image_token_id: int | None = None,
        **more: Any,
    ) -> None:
        if isinstance(text_config, Mapping):
            numbers = dict(text_config)
            text_config = CONFIG_MAPPING[numbers.pop("model_type")](**numbers)
        self.text_config = text_config
        self.image_token_id = image_token_id
        super().__init__(**more)
