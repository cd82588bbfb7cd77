"""The models of tools/check_vllm.py: overrides of compositions with small numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHIPPED = "hdvl/small"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Case:
    """A model to compare.

    Attributes:
        format: the format of ``hdvl export``.
        overrides: the composition, as for ``hdvl train``; the shipped model if there are none.
        options: arguments of vLLM's ``LLM``.
        several: whether to ask about several images at a time.
    """

    format: str
    overrides: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    several: bool = True

    @property
    def turned(self) -> bool:
        """Whether the images have an EXIF orientation, by which vLLM's own classes turn all images."""
        return self.format == "vllm"

    def saved(self, folder: Path) -> Path:
        """The folder of the model: written to ``folder`` with random weights, or the shipped one."""
        from hdvl.checkpoints import save_folder
        from hdvl.checkpoints.sources import find_folder
        from hdvl.config import build, compose, resolve

        if not self.overrides:
            return find_folder(SHIPPED)
        cfg = compose(*self.overrides)
        return save_folder(scattered(build(cfg.model)), folder, {"model": resolve(cfg)["model"]})


def scattered(model: Any, seed: int = 0) -> Any:
    """``model`` with all parameters drawn anew, wide enough that answers depend on the images."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "embed" not in name:
                # Wide in the language model, so that its attention picks out single visual tokens.
                value.normal_(std=(3 if name.startswith("llm.") else 1) * value[0].numel() ** -0.5)
            else:
                value.normal_(std=0.5).add_(float(name.endswith("norm.weight")))
    return model.eval()


def llm(name: str, kind: str = "qwen2", tokens: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A language model with heads of 32 channels, which vLLM's attention for CPUs takes."""
    heads = ("num_attention_heads=2", "num_key_value_heads=1", f"model_type={kind}")
    words = [f"llm={name}", *(f"llm.config.{word}" for word in heads)]
    if tokens:
        quoted = ",".join(f"'{token}'" for token in (*SPECIAL, *tokens))
        words.append(f"+llm.tokenizer.special_tokens=[{quoted}]")
    return tuple(words)


def tower(name: str, side: int = 32) -> tuple[str, ...]:
    """A vision transformer of transformers with four by four patches."""
    numbers = "hidden_size: 64, intermediate_size: 96, num_hidden_layers: 3, num_attention_heads: 2"
    config = f"{{{numbers}, image_size: {side}, patch_size: {side // 4}}}"
    return (f"encoder={name}", f"encoder.config={config}", f"encoder.tile_size={side}")


INTERN_VIT = (
    *("encoder=intern_vit_300m", "encoder.width=64", "encoder.depth=3", "encoder.heads=2"),
    *("encoder.mlp_width=96", "encoder.patch=8", "encoder.image_size=32"),
)
IDEFICS3 = ("tiler.tile_size=32", "tiler.longest_edge=128", "bridge.factor=2")
IDEFICS3_TOKENS = (
    *("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    "<|begin_of_text|>",
)
TAGS = (
    *("merger=concat", "merger.tags.before_tile='row {row} column {col}: '"),
    *("merger.tags.row_end='\\n'", "merger.tags.before_thumbnail='all: '"),
    "merger.tags.after_image='\\n\\n'",
)
TILES = ("tiler.tile_size=32",)
CLIP = (*tower("clip_l_336"), *TILES, "template=chatml", "template.numbering=''")
SIGLIP = (*tower("siglip_so400m_384"), *TILES)
ROWS = ("tiler=sliding_window", "tiler.max_tiles=6", "encoder=tiny", "template=chatml", *TAGS)
QUERIES = ("bridge=resampler", "bridge.num_queries=4")
NO_VIDEO = {"limit_mm_per_prompt": {"image": 2, "video": 0}}
TAGGED_LLM = llm("tiny_llama", "llama", IDEFICS3_TOKENS)
CASES = {
    "internvl": Case(
        "transformers",
        ("model=internvl3_8b", *llm("tiny"), *INTERN_VIT, *TILES, "tiler.max_tiles=6"),
    ),
    "llava": Case("transformers", ("model=llava_1_5", *llm("tiny_llama", "llama"), *CLIP)),
    "llava_next": Case("transformers", ("model=llava_next", *llm("tiny", "mistral"), *CLIP)),
    # Of several images vLLM's class cuts tiles, transformers and hdvl give one view each: see several_images.
    "llava_onevision": Case(
        "transformers", ("model=llava_onevision", *llm("tiny"), *SIGLIP), NO_VIDEO, several=False
    ),
    "idefics3": Case(
        "transformers", ("model=idefics3_8b", *TAGGED_LLM, *tower("idefics3"), *IDEFICS3)
    ),
    "smolvlm": Case("transformers", ("model=smolvlm", *TAGGED_LLM, *tower("smolvlm"), *IDEFICS3)),
    "small": Case("vllm", options={"max_model_len": 8192}),
    "row_tags": Case("vllm", (*ROWS, *QUERIES, *llm("tiny", "qwen3"))),
    "several_images": Case("vllm", ("model=llava_onevision", *llm("tiny_llama", "llama"), *SIGLIP)),
}
