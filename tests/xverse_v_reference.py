"""XVERSE-V's files and arithmetic, apart from hdvl's own parts, written from the published description.

LoRA is computed separately from the base weights, there is no cache, and all functions are explicit.
"""

import json
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor

from tests.golden_files import reference_state

State = dict[str, Tensor]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ALLOWED = {(r, c) for r in range(1, 10) for c in range(1, 10) if r * c <= 9}
LINEAR = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]


@dataclass(frozen=True)
class Sizes:
    """Numbers of a model in XVERSE-V's layout."""

    tile: int = 56
    vision_width: int = 32
    vision_layers: int = 3
    vision_heads: int = 2
    vision_inner: int = 48
    width: int = 48
    inner: int = 80
    layers: int = 2
    heads: int = 4
    vocabulary: int = 300
    rank: int = 4
    ln_vision: bool = True
    infix: str = ""

    @property
    def vision_config(self) -> dict[str, Any]:
        return {
            "model_type": "clip_vision_model",
            "hidden_size": self.vision_width,
            "intermediate_size": self.vision_inner,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": self.vision_heads,
            "image_size": self.tile,
            "patch_size": 14,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "projection_dim": 8,
        }

    @property
    def llm_config(self) -> dict[str, Any]:
        return {
            "model_type": "xverse",
            "architectures": ["XverseForCausalLM"],
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 1,
        }

    def manifest(self) -> dict[str, dict[str, list[int]]]:
        """Every stored name and shape, part by part."""
        return {"vision": self._vision(), "llm": self._llm(), "adapter": self._adapter()}

    def _vision(self) -> dict[str, list[int]]:
        d, inner, places = self.vision_width, self.vision_inner, (self.tile // 14) ** 2 + 1
        shapes = {
            "embeddings.class_embedding": [d],
            "embeddings.patch_embedding.weight": [d, 3, 14, 14],
            "embeddings.position_embedding.weight": [places, d],
        }
        for norm in ("pre_layrnorm", "post_layernorm"):
            shapes |= {f"{norm}.weight": [d], f"{norm}.bias": [d]}
        for i in range(self.vision_layers):
            at = f"encoder.layers.{i}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes |= {
                    f"{at}.self_attn.{name}.weight": [d, d],
                    f"{at}.self_attn.{name}.bias": [d],
                }
            shapes |= {f"{at}.mlp.fc1.weight": [inner, d], f"{at}.mlp.fc1.bias": [inner]}
            shapes |= {f"{at}.mlp.fc2.weight": [d, inner], f"{at}.mlp.fc2.bias": [d]}
            for norm in ("layer_norm1", "layer_norm2"):
                shapes |= {f"{at}.{norm}.weight": [d], f"{at}.{norm}.bias": [d]}
        return {f"vision_model.{key}": shape for key, shape in shapes.items()}

    def _linear(self) -> dict[str, tuple[int, int]]:
        e, inner = self.width, self.inner
        outs = {"gate": (inner, e), "up": (inner, e), "down": (e, inner)}
        return {name: outs.get(name[4:-5], (e, e)) for name in LINEAR}

    def _llm(self) -> dict[str, list[int]]:
        e = self.width
        shapes = {"model.embed_tokens.weight": [self.vocabulary, e], "model.norm.weight": [e]}
        shapes["lm_head.weight"] = [self.vocabulary, e]
        for i in range(self.layers):
            at = f"model.layers.{i}"
            shapes |= {f"{at}.{name}.weight": list(s) for name, s in self._linear().items()}
            shapes |= {
                f"{at}.input_layernorm.weight": [e],
                f"{at}.post_attention_layernorm.weight": [e],
            }
        return shapes

    def _adapter(self) -> dict[str, list[int]]:
        d, e = self.vision_width, self.width
        shapes = {"llama_proj.0.weight": [e, d], "llama_proj.0.bias": [e]}
        shapes |= {"llama_proj.2.weight": [e, e], "llama_proj.2.bias": [e]}
        if self.ln_vision:
            shapes |= {"ln_vision.weight": [d], "ln_vision.bias": [d]}
        for i in range(self.layers):
            for name, (out, into) in self._linear().items():
                at = f"llama_model.base_model.model.model.layers.{i}.{name}"
                shapes[f"{at}.lora_A{self.infix}.weight"] = [self.rank, into]
                shapes[f"{at}.lora_B{self.infix}.weight"] = [out, self.rank]
        return shapes

    def states(self) -> dict[str, State]:
        """The weights of the three parts."""
        return {part: reference_state(shapes) for part, shapes in self.manifest().items()}


def write_parts(
    folder: Path,
    states: dict[str, State],
    *,
    vision_config: dict[str, Any],
    llm_config: dict[str, Any],
    shards: int = 1,
) -> Path:
    """The three parts in one folder: CLIP as safetensors, the LLM as ``.bin`` shards, the adapter."""
    for name, config in (("clip", vision_config), ("chat", llm_config)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(states["vision"], folder / "clip" / "model.safetensors")
    if shards == 1:
        torch.save(states["llm"], folder / "chat" / "pytorch_model.bin")
    else:
        weight_map = {}
        for number in range(shards):
            file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
            keys = sorted(states["llm"])[number::shards]
            torch.save({key: states["llm"][key] for key in keys}, folder / "chat" / file)
            weight_map.update(dict.fromkeys(keys, file))
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "chat" / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    torch.save({"model": states["adapter"]}, folder / "adapter_and_lora.bin")
    return folder


def write_folder(folder: Path, sizes: Sizes, *, shards: int = 1) -> Path:
    """A whole model of ``sizes``."""
    configs = {"vision_config": sizes.vision_config, "llm_config": sizes.llm_config}
    return write_parts(folder, sizes.states(), **configs, shards=shards)


# --- images -----------------------------------------------------------------------------------


def grid(width: int, height: int, tile: int) -> tuple[int, int]:
    """Rows and columns as published: the rows from the width."""

    def rounded(side: int) -> int:
        value = side / tile
        return max(1, floor(value) + (value - floor(value) > 0.5))

    rows, cols = rounded(width), rounded(height)
    if (rows, cols) in ALLOWED:
        return rows, cols
    if 1 in (rows, cols):
        return (1, 9) if rows == 1 else (9, 1)
    if 2 in (rows, cols):
        return (4, 2) if cols == 2 else (2, 4)
    return 3, 3


def tiles_of(image: Image.Image, tile: int) -> Tensor:
    """The global view, then the tiles of the squashed image row by row: t 3 h w, normalised."""

    def view(width: int, height: int) -> Tensor:
        # The width first, as Pillow before 13 does it.
        wide = image.resize((width, image.height), Image.Resampling.BICUBIC)
        pixels = pil_to_tensor(wide.resize((width, height), Image.Resampling.BICUBIC)).float() / 255
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    rows, cols = grid(*image.size, tile)
    found = [view(tile, tile)]
    if rows * cols > 1:
        canvas = view(cols * tile, rows * tile)
        for i in range(rows):
            for j in range(cols):
                found.append(canvas[:, i * tile : (i + 1) * tile, j * tile : (j + 1) * tile])
    return torch.stack(found)


# --- the model ----------------------------------------------------------------------------------


def see(vision: State, adapter: State, pixels: Tensor, sizes: Sizes) -> Tensor:
    """Visual tokens, tile after tile: (t n) e."""
    state = {key.removeprefix("vision_model."): value for key, value in vision.items()}
    d, heads = sizes.vision_width, sizes.vision_heads

    def norm(x: Tensor, key: str) -> Tensor:
        return functional.layer_norm(x, (d,), state[f"{key}.weight"], state[f"{key}.bias"], 1e-5)

    def linear(x: Tensor, key: str) -> Tensor:
        return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    def attend(x: Tensor, at: str) -> Tensor:
        q, k, v = (linear(x, f"{at}.{n}_proj") for n in "qkv")
        out = []
        for part in torch.arange(d).chunk(heads):
            scores = q[..., part] @ k[..., part].transpose(1, 2) / len(part) ** 0.5
            out.append(scores.softmax(-1) @ v[..., part])
        return linear(torch.cat(out, -1), f"{at}.out_proj")

    x = functional.conv2d(pixels, state["embeddings.patch_embedding.weight"], stride=14)
    x = x.flatten(2).transpose(1, 2)
    first = state["embeddings.class_embedding"].expand(len(x), 1, d)
    x = torch.cat((first, x), 1) + state["embeddings.position_embedding.weight"]
    x = norm(x, "pre_layrnorm")
    for i in range(sizes.vision_layers - 1):  # the last block is not used
        at = f"encoder.layers.{i}"
        x = x + attend(norm(x, f"{at}.layer_norm1"), f"{at}.self_attn")
        inner = linear(norm(x, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
        x = x + linear(inner * torch.sigmoid(1.702 * inner), f"{at}.mlp.fc2")
    weight, bias = adapter.get("ln_vision.weight"), adapter.get("ln_vision.bias")
    x = functional.layer_norm(x[:, 1:], (d,), weight, bias, 1e-5)
    x = functional.gelu(x @ adapter["llama_proj.0.weight"].T + adapter["llama_proj.0.bias"])
    x = x @ adapter["llama_proj.2.weight"].T + adapter["llama_proj.2.bias"]
    return x.flatten(0, 1)


def language(llm: State, adapter: State, x: Tensor, sizes: Sizes) -> Tensor:
    """Logits s v of embeddings s e."""
    size = sizes.width // sizes.heads
    angles = torch.outer(
        torch.arange(len(x)).double(), 1e4 ** (-torch.arange(0, size, 2).double() / size)
    )
    cos, sin = (f(angles).repeat(1, 2).to(x.dtype) for f in (torch.cos, torch.sin))

    def rms(x: Tensor, key: str) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * llm[f"{key}.weight"]

    def linear(x: Tensor, key: str) -> Tensor:
        at = f"llama_model.base_model.model.{key}"
        a, b = (adapter[f"{at}.lora_{side}{sizes.infix}.weight"] for side in "AB")
        return x @ llm[f"{key}.weight"].T + 2.0 * (x @ a.T @ b.T)

    def turned(x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat((-right, left), -1) * sin

    hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for i in range(sizes.layers):
        at = f"model.layers.{i}"
        y = rms(x, f"{at}.input_layernorm")
        q, k, v = (linear(y, f"{at}.self_attn.{n}_proj") for n in "qkv")
        out = []
        for part in torch.arange(sizes.width).chunk(sizes.heads):
            scores = turned(q[:, part]) @ turned(k[:, part]).T / size**0.5
            out.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, part])
        x = x + linear(torch.cat(out, -1), f"{at}.self_attn.o_proj")
        y = rms(x, f"{at}.post_attention_layernorm")
        gate = functional.silu(linear(y, f"{at}.mlp.gate_proj"))
        x = x + linear(gate * linear(y, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
    return rms(x, "model.norm") @ llm["lm_head.weight"].T


def embeddings(llm: State, ids: Tensor, visual: Tensor, slot: int = -1) -> Tensor:
    """Embeddings of ``ids``, visual tokens where ``slot`` stands."""
    x = llm["model.embed_tokens.weight"][ids.masked_fill(ids == slot, 0)]
    x[ids == slot] = visual
    return x


def greedy(
    states: dict[str, State], x: Tensor, sizes: Sizes, count: int
) -> tuple[list[int], Tensor]:
    """The likeliest ids one after the other, and the logits each was chosen from."""
    found, steps = list[int](), list[Tensor]()
    for _ in range(count):
        steps.append(language(states["llm"], states["adapter"], x, sizes)[-1])
        found.append(int(steps[-1].argmax()))
        x = torch.cat((x, states["llm"]["model.embed_tokens.weight"][found[-1:]]))
    return found, torch.stack(steps)
