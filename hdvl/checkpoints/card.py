"""The model card of a folder, and the versions of the packages that wrote it."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "timm",
    "open-clip-torch",
    "safetensors",
    "pillow",
    "numpy",
)


def versions() -> dict[str, Any]:
    """The versions of hdvl, Python and the packages that affect the weights."""
    from hdvl.version import __version__

    installed: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return {"hdvl": __version__, "python": platform.python_version(), "packages": installed}


def read_licence(folder: Path) -> str | None:
    """Return the licence in the header of the model card in ``folder``; ``None`` if there is none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    head = text.removeprefix("---\n").partition("\n---")[0] if text.startswith("---\n") else ""
    try:
        fields = yaml.safe_load(head)
    except yaml.YAMLError:
        return None
    licence = fields.get("license") if isinstance(fields, dict) else None
    return licence if isinstance(licence, str) else None


def model_card(
    *,
    name: str,
    licence: str,
    node: Mapping[str, Any],
    vlm: nn.Module,
    allow: Sequence[str] = (),
    base_model: str | None = None,
    about: str = "",
) -> str:
    """Generate a model card from the parts of the model and the information given by the caller.

    Args:
        name: the heading.
        licence: the licence of the weights.
        node: the model node.
        vlm: the model, whose parameters are counted.
        allow: packages besides hdvl that must be allowed to load the model.
        base_model: the model that it was fine-tuned from.
        about: Markdown about data, training and scores.
    """
    allowed = f", allow={list(allow)}" if allow else ""
    rows = [
        f"| {part} | `{_target(node[part])}` | {_count(module)} |"
        for part, module in vlm.named_children()
    ]
    without_weights = [f"| {part} | `{_target(node[part])}` | |" for part in ("tiler", "template")]
    return "\n".join(
        [
            "---",
            f"license: {json.dumps(licence)}",
            "library_name: hdvl",
            "pipeline_tag: image-text-to-text",
            *([] if base_model is None else [f"base_model: {json.dumps(base_model)}"]),
            "---",
            "",
            f"# {name}",
            "",
            "A vision-language model composed and saved by hdvl.",
            "",
            "| part | class | parameters |",
            "|---|---|---:|",
            *rows,
            *without_weights,
            "",
            *([about, ""] if about else []),
            "```python",
            "import hdvl",
            "",
            f'pipe = hdvl.load("this/folder"{allowed})',
            'print(pipe.chat("What is written here?", images=["image.png"]).text)',
            "```",
            "",
        ]
    )


def _target(node: Mapping[str, Any]) -> str:
    return str(node["_target_"])


def _count(module: nn.Module) -> str:
    return f"{sum(value.numel() for value in module.parameters()):,}"
