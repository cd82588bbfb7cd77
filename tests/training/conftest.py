"""A small model with the children of a VLM."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hdvl.config import CONF_DIR, to_plain


class Block(nn.Module):
    """Norm, linear, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.fc(self.norm(x)))


class ToyEncoder(nn.Module):
    """Class token, patch embedding, batch norm, blocks, attention, norm."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.patch_embed = nn.Linear(3, width)
        self.batch_norm = nn.BatchNorm1d(4)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.batch_norm(self.patch_embed(pixels)) + self.cls_token
        for block in self.blocks:
            x = block(x)
        attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
        normed: Tensor = self.norm(x + attended)
        return normed


class ToyLLM(nn.Module):
    """Embedding, layers, norm, head."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 11, bias=False)

    @property
    def backbone(self) -> nn.Module:
        return self.layers

    def embedding_layers(self) -> list[nn.Module]:
        return [self.embed_tokens, self.lm_head]

    def forward(self, embeddings: Tensor) -> Tensor:
        for layer in self.layers:
            embeddings = layer(embeddings)
        logits: Tensor = self.lm_head(self.norm(embeddings))
        return logits


class ToyVLM(nn.Module):
    """The children that the training code knows, and nothing else of a VLM."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = ToyEncoder(width, 3)
        self.bridge = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.merger = nn.ParameterDict({"newline": nn.Parameter(torch.randn(width))})
        self.llm = ToyLLM(width, 2)

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        seen = self.bridge(self.encoder(pixels)) + self.merger["newline"]
        logits: Tensor = self.llm(torch.cat([seen, self.llm.embed_tokens(ids)], dim=1))
        return logits

    def loss(self) -> Tensor:
        """A number that depends on every parameter, on fixed input."""
        generator = torch.Generator().manual_seed(1)
        pixels = torch.rand(2, 4, 3, generator=generator)
        ids = torch.randint(11, (2, 5), generator=generator)
        logits = self(pixels, ids)
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), ids.new_ones(logits[..., 0].numel())
        )


@pytest.fixture
def vlm() -> ToyVLM:
    """A fresh toy model."""
    return ToyVLM()


@pytest.fixture
def optimizer_node() -> dict[str, Any]:
    """The optimizer's config as plain data, as the training code gets it."""
    from omegaconf import OmegaConf

    node: dict[str, Any] = to_plain(OmegaConf.load(CONF_DIR / "optimizer" / "adamw.yaml"))
    return node
