"""Preprocessing for vLLM: hdvl's processor tiles the images and writes their layouts into the prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
    PromptUpdateDetails,
)
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo

from hdvl.checkpoints.native import is_model_folder, unfilled
from hdvl.integrations.vllm.images import OriginalImageParser, source_of
from hdvl.integrations.vllm.tiles import largest_image, packed, unpacked
from hdvl.model import VLM
from hdvl.processor import Processor
from hdvl.protocols import TilePlan, Tiler, tiler_for
from hdvl.templates.placeholders import expand_ids, layout_ids

_COUNT = "image_count"


def read_on_meta(folder: str) -> VLM:
    """The model in ``folder`` with its parameters on ``meta``.

    Raises:
        ValueError: it is no folder that hdvl wrote.
    """
    if not is_model_folder(folder):
        raise ValueError(
            f"model must be a local folder of hdvl export format=vllm, {folder!r} is none; "
            "download it first and give its path"
        )
    with torch.device("cpu"):
        return unfilled(Path(folder), {})


@lru_cache(maxsize=2)
def processor_of(folder: str) -> Processor:
    """The processor of the model in ``folder``."""
    return Processor.of(read_on_meta(folder))


class HdvlProcessingInfo(BaseProcessingInfo):  # type: ignore[misc]
    """What vLLM asks about the images of a model."""

    @property
    def processor(self) -> Processor:
        """The processor of the model."""
        return processor_of(self.ctx.model_config.model)

    @property
    def image_id(self) -> int:
        """The id in the image slots."""
        token = self.processor.template.image_token
        return int(self.processor.tokenizer.convert_tokens_to_ids(token))

    def tiler(self, options: Mapping[str, Any]) -> Tiler:
        """The tiler for a request with the options ``mm_processor_kwargs``.

        Raises:
            ValueError: there is an option other than ``max_tiles``.
        """
        merged = self.ctx.get_merged_mm_kwargs(options)
        count = merged.pop(_COUNT, 1)
        limit = merged.pop("max_tiles", None)
        if merged:
            raise ValueError(f"mm_processor_kwargs must be max_tiles, got {', '.join(merged)}")
        return tiler_for(self.processor.limited(limit).tiler, count)

    def image_ids(self, plan: TilePlan) -> list[int]:
        """The ids of an image that is cut by ``plan``: its slots and its tags."""
        processor = self.processor
        token = processor.template.image_token
        return layout_ids(processor.tokenizer, token, processor.layout(plan))

    @cached_property
    def largest(self) -> tuple[int, int]:
        """The size of an image that takes the most visual tokens."""
        return largest_image(self.tiler({}), self.processor.token_count)

    def get_data_parser(self) -> OriginalImageParser:
        """The parser of the images of a prompt."""
        return OriginalImageParser()

    def get_default_tok_params(self) -> Any:
        """Prompts are tokenised without tokens that the tokenizer adds, since templates write them."""
        return replace(super().get_default_tok_params(), add_special_tokens=False)

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """There is no processor of transformers that would take options."""
        return {}

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of images."""
        return {"image": None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        """The most visual tokens of an image."""
        return {"image": self.processor.token_count(self.tiler({}).plan(*self.largest))}


class HdvlDummyInputs(BaseDummyInputsBuilder[HdvlProcessingInfo]):  # type: ignore[misc]
    """The largest inputs, by which vLLM measures the memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """An image token for each image."""
        token: str = self.info.processor.template.image_token
        return token * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """White images of the largest size."""
        width, height = self.info.largest
        count = mm_counts.get("image", 0)
        images = self._get_dummy_images(
            width=width, height=height, num_images=count, overrides=mm_options.get("image")
        )
        return {"image": images}


class HdvlMultiModalProcessor(BaseMultiModalProcessor[HdvlProcessingInfo]):  # type: ignore[misc]
    """Tiles images, and replaces the image tokens of a prompt by the layouts of the images."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """As in the base class; the number of images is an option, because tilers may depend on it."""
        count = inputs.mm_data_items.get_all_counts().get("image", 0)
        tiler = self.info.processor.tiler
        if tiler_for(tiler, count) != tiler_for(tiler, 1):
            options = {**inputs.hf_processor_mm_kwargs, _COUNT: count}
            inputs = replace(inputs, hf_processor_mm_kwargs=options)
        return super().apply(inputs, timing_ctx)

    def _apply_hf_processor_main(
        self, mm_items: Any, hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        tiler = self.info.tiler(hf_kwargs)
        images = mm_items["image"].get_all() if "image" in mm_items else []
        pairs = [packed(tiler(source_of(image))) for image in images]
        return BatchFeature(
            {"pixels": [pair[0] for pair in pairs], "plan": [pair[1] for pair in pairs]}
        )

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, Any]:
        return {
            "pixels": MultiModalFieldConfig.batched("image"),
            "plan": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptUpdate]:
        image_id = self.info.image_id

        def replacement(number: int) -> PromptUpdateDetails:
            item = out_mm_kwargs["image"][number].get_data()
            _, plan = unpacked(item["pixels"], item["plan"])
            return PromptUpdateDetails.select_token_id(self.info.image_ids(plan), image_id)

        return [PromptReplacement(modality="image", target=[image_id], replacement=replacement)]

    def _apply_prompt_updates(
        self, token_ids: list[int], mm_prompt_updates: Mapping[str, Sequence[Sequence[Any]]]
    ) -> tuple[list[int], Mapping[str, list[PlaceholderFeaturesInfo]]]:
        """Unlike the base class, tokenise the tags at the edges of an image with the text around it."""
        processor = self.info.processor
        token = processor.template.image_token
        images = [updates[0].content.full for updates in mm_prompt_updates.get("image", [])]
        expanded = expand_ids(processor.tokenizer, token, token_ids, images)
        placed = [
            PlaceholderFeaturesInfo(
                modality="image",
                item_idx=number,
                start_idx=start,
                tokens=expanded.ids[start:stop],
                is_embed=torch.tensor(expanded.ids[start:stop]) == self.info.image_id,
            )
            for number, (start, stop) in enumerate(expanded.spans)
        ]
        return expanded.ids, {"image": placed} if placed else {}
