"""The model card, and which versions wrote a folder."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

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
    """Versions of hdvl, Python and the packages that computed the weights."""
    from hdvl.version import __version__

    installed: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = None
    return {"hdvl": __version__, "python": platform.python_version(), "packages": installed}


def model_card(
    *,
    name: str,
    licence: str,
    node: Mapping[str, Any],
    vlm: nn.Module,
    allow: Sequence[str] = (),
) -> str:
    """A card for a model of which nothing but its composition is known.

    ``allow`` are the packages besides hdvl that loading it needs.
    """
    allowed = f", allow={list(allow)}" if allow else ""
    rows = [
        f"| {part} | `{_target(node[part])}` | {_count(module)} |"
        for part, module in vlm.named_children()
    ]
    still = [f"| {part} | `{_target(node[part])}` | |" for part in ("tiler", "template")]
    return "\n".join(
        [
            "---",
            f"license: {json.dumps(licence)}",
            "library_name: hdvl",
            "pipeline_tag: image-text-to-text",
            "---",
            "",
            f"# {name}",
            "",
            "A vision-language model composed and saved by hdvl.",
            "",
            "| part | class | parameters |",
            "|---|---|---:|",
            *rows,
            *still,
            "",
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
