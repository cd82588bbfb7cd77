"""InternVL-Chat's computation as plain functions of a published state dict, independent of hdvl's parts.

They are written from the published description, with explicit loops and sums instead of libraries.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def intern_vit(state: State, pixels: Tensor, config: dict[str, Any], layers: int) -> Tensor:
    """Patch features after ``layers`` blocks; ``pixels`` t 3 h w are normalised."""
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def rms(x: Tensor, key: str) -> Tensor:
        scale = (x.float().pow(2).mean(-1, keepdim=True) + eps).rsqrt()
        return (x.float() * scale).to(x.dtype) * state[f"{key}.weight"]

    def norm(x: Tensor, key: str) -> Tensor:
        if config.get("norm_type", "rms_norm") == "rms_norm":
            return rms(x, key)
        return functional.layer_norm(
            x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], eps
        )

    def attention(x: Tensor, key: str) -> Tensor:
        qkv = x @ state[f"{key}.qkv.weight"].T + state.get(f"{key}.qkv.bias", torch.zeros(()))
        q, k, v = qkv.chunk(3, dim=-1)
        if config["qk_normalization"]:
            q, k = rms(q, f"{key}.q_norm"), rms(k, f"{key}.k_norm")
        size = q.shape[-1] // heads
        out = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = (q[..., part] * size**-0.5) @ k[..., part].transpose(1, 2)
            out.append(scores.softmax(-1) @ v[..., part])
        return torch.cat(out, -1) @ state[f"{key}.proj.weight"].T + state[f"{key}.proj.bias"]

    def mlp(x: Tensor, key: str) -> Tensor:
        inner = functional.gelu(x @ state[f"{key}.fc1.weight"].T + state[f"{key}.fc1.bias"])
        return inner @ state[f"{key}.fc2.weight"].T + state[f"{key}.fc2.bias"]

    patch = state["embeddings.patch_embedding.weight"]
    x = functional.conv2d(pixels, patch, state["embeddings.patch_embedding.bias"], stride=14)
    rows, cols = x.shape[2:]
    table = state["embeddings.position_embedding"]
    side = round((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, (rows, cols), mode="bicubic", align_corners=False)
    places = torch.cat((table[:, :1], grid.flatten(2).transpose(1, 2).to(table.dtype)), 1)
    first = state["embeddings.class_embedding"].expand(len(x), -1, -1)
    x = torch.cat((first, x.flatten(2).transpose(1, 2)), 1) + places
    for number in range(layers):
        at = f"encoder.layers.{number}"
        x = x + state[f"{at}.ls1"] * attention(norm(x, f"{at}.norm1"), f"{at}.attn")
        x = x + state[f"{at}.ls2"] * mlp(norm(x, f"{at}.norm2"), f"{at}.mlp")
    return x[:, 1:]


def shuffle(features: Tensor, order: str) -> Tensor:
    """2 x 2 patches become one token, in order v1 (column by column) or v2 (row by row)."""
    side = round(features.shape[1] ** 0.5)
    half = side // 2
    tokens = []
    for index in range(half * half):
        row, col = divmod(index, half) if order == "v2" else divmod(index, half)[::-1]
        corners = [(2 * row + a) * side + 2 * col + b for a in (0, 1) for b in (0, 1)]
        tokens.append(torch.cat([features[:, corner] for corner in corners], -1))
    return torch.stack(tokens, 1)


def projector(state: State, tokens: Tensor) -> Tensor:
    """mlp1: LayerNorm, Linear, GELU, Linear."""
    x = functional.layer_norm(tokens, tokens.shape[-1:], state["0.weight"], state["0.bias"], 1e-5)
    x = functional.gelu(x @ state["1.weight"].T + state["1.bias"])
    return x @ state["3.weight"].T + state["3.bias"]


def llama(state: State, x: Tensor, config: dict[str, Any]) -> Tensor:
    """Logits of embeddings b s e; biases of queries, keys and values where there are any (Qwen2)."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size, length = x.shape[-1] // heads, x.shape[1]
    steps = config["rope_theta"] ** -(torch.arange(0, size, 2).float() / size)
    angles = torch.arange(length).float()[:, None] * steps
    cos, sin = (torch.cat((part, part), -1).to(x.dtype) for part in (angles.cos(), angles.sin()))
    mask = torch.full((length, length), float("-inf")).triu(1).to(x.dtype)

    def rms(x: Tensor, key: str) -> Tensor:
        scale = (x.float().pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).rsqrt()
        return (x.float() * scale).to(x.dtype) * state[f"{key}.weight"]

    def linear(x: Tensor, key: str) -> Tensor:
        return x @ state[f"{key}.weight"].T + state.get(
            f"{key}.bias", torch.zeros((), dtype=x.dtype)
        )

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}"
        y = rms(x, f"{at}.input_layernorm")
        q, k, v = (linear(y, f"{at}.self_attn.{part}_proj") for part in "qkv")
        out = []
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            group = head * groups // heads
            shared = slice(group * size, (group + 1) * size)
            scores = turned(q[..., mine]) @ turned(k[..., shared]).transpose(1, 2) * size**-0.5
            out.append((scores + mask).softmax(-1) @ v[..., shared])
        x = x + linear(torch.cat(out, -1), f"{at}.self_attn.o_proj")
        y = rms(x, f"{at}.post_attention_layernorm")
        gate, up = (linear(y, f"{at}.mlp.{part}_proj") for part in ("gate", "up"))
        x = x + linear(functional.silu(gate) * up, f"{at}.mlp.down_proj")
    return linear(rms(x, "model.norm"), "lm_head")


def under(state: State, prefix: str) -> State:
    """The part of ``state`` whose keys start with ``prefix``."""
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


def chat(
    state: State, ids: Tensor, pixels: Tensor, config: dict[str, Any], *, image_id: int
) -> tuple[Tensor, Tensor]:
    """(visual features t n e, logits b s v) of the whole system; ``pixels`` are normalised."""
    vision = config["vision_config"]
    layers = vision["num_hidden_layers"] + config["select_layer"] + 1
    seen = intern_vit(under(state, "vision_model."), pixels, vision, layers)
    features = projector(under(state, "mlp1."), shuffle(seen, config["ps_version"]))
    language = under(state, "language_model.")
    slots = ids == image_id
    x = language["model.embed_tokens.weight"][torch.where(slots, 0, ids)]
    x[slots] = features.reshape(-1, features.shape[-1])
    return features, llama(language, x, config["llm_config"])
