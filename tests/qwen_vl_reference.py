"""Qwen-VL's computation as plain functions of a published state dict, independent of hdvl's parts.

They are written from the published description, with explicit loops and sums instead of libraries.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]
VISUAL = "transformer.visual."


def manifest(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every key of a published 16-bit checkpoint of this configuration, and its shape."""
    wide, rows, inner = (
        config["hidden_size"],
        config["vocab_size"],
        config["intermediate_size"] // 2,
    )
    visual = config["visual"]
    e, d = visual["output_dim"], visual["width"]
    hidden, patch = int(d * visual["mlp_ratio"]), visual["patch_size"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, wide)}
    for number in range(config["num_hidden_layers"]):
        at = f"transformer.h.{number}."
        shapes |= {
            f"{at}ln_1.weight": (wide,),
            f"{at}attn.c_attn.weight": (3 * wide, wide),
            f"{at}attn.c_attn.bias": (3 * wide,),
            f"{at}attn.c_proj.weight": (wide, wide),
            f"{at}ln_2.weight": (wide,),
            f"{at}mlp.w1.weight": (inner, wide),
            f"{at}mlp.w2.weight": (inner, wide),
            f"{at}mlp.c_proj.weight": (wide, inner),
        }
    shapes |= {"transformer.ln_f.weight": (wide,), "lm_head.weight": (rows, wide)}
    pool = VISUAL + "attn_pool."
    shapes |= {
        VISUAL + "positional_embedding": (256, d),
        VISUAL + "proj": (e, e),
        VISUAL + "conv1.weight": (d, 3, patch, patch),
        pool + "query": (256, e),
        pool + "pos_embed": (256, e),
        pool + "kv_proj.weight": (e, d),
        pool + "attn.in_proj_weight": (3 * e, e),
        pool + "attn.in_proj_bias": (3 * e,),
        pool + "attn.out_proj.weight": (e, e),
        pool + "attn.out_proj.bias": (e,),
    }
    norms = {VISUAL + "ln_pre": d, VISUAL + "ln_post": e, pool + "ln_q": e, pool + "ln_kv": e}
    for number in range(visual["layers"]):
        at = f"{VISUAL}transformer.resblocks.{number}."
        norms |= {f"{at}ln_1": d, f"{at}ln_2": d}
        sizes = {
            "attn.in_proj": (3 * d, d),
            "attn.out_proj": (d, d),
            "mlp.c_fc": (hidden, d),
            "mlp.c_proj": (d, hidden),
        }
        for name, size in sizes.items():
            shapes |= {f"{at}{name}.weight": size, f"{at}{name}.bias": size[:1]}
    for name, size in norms.items():
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return shapes


def table(side: int, width: int) -> Tensor:
    """The fixed positions of the queries: sin and cos of the column, then of the row."""
    quarter = width // 4
    steps = [10000 ** (-k / quarter) for k in range(quarter)]
    rows = []
    for row in range(side):
        for col in range(side):
            waves = [math.sin(col * f) for f in steps] + [math.cos(col * f) for f in steps]
            waves += [math.sin(row * f) for f in steps] + [math.cos(row * f) for f in steps]
            rows.append(waves)
    return torch.tensor(rows)


def stretched(places: Tensor, side: int) -> Tensor:
    """A square table for ``side`` x ``side`` positions."""
    own = math.isqrt(len(places))
    if own == side:
        return places
    maps = places.float().reshape(1, own, own, -1).permute(0, 3, 1, 2)
    maps = functional.interpolate(maps, (side, side), mode="bicubic", align_corners=False)
    return maps.flatten(2)[0].T.to(places.dtype)


def norm(state: State, x: Tensor, key: str) -> Tensor:
    return functional.layer_norm(
        x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], 1e-6
    )


def linear(state: State, x: Tensor, key: str) -> Tensor:
    bias = state.get(f"{key}.bias", torch.zeros((), dtype=x.dtype))
    return x @ state[f"{key}.weight"].T + bias


def trunk(state: State, pixels: Tensor, visual: dict[str, Any]) -> Tensor:
    """Patch features; ``pixels`` t 3 h w are normalised, ``state`` is without its prefix."""
    x = functional.conv2d(pixels, state["conv1.weight"], stride=visual["patch_size"])
    places = stretched(state["positional_embedding"], x.shape[2])
    x = norm(state, x.flatten(2).transpose(1, 2) + places, "ln_pre")
    heads = visual["heads"]
    size = x.shape[-1] // heads
    for number in range(visual["layers"]):
        at = f"transformer.resblocks.{number}"
        packed = linear(state, norm(state, x, f"{at}.ln_1"), f"{at}.attn.in_proj")
        out = []
        for head in range(heads):
            own = packed[..., 3 * size * head : 3 * size * (head + 1)]
            q, k, v = own[..., :size], own[..., size : 2 * size], own[..., 2 * size :]
            out.append(((q / size**0.5) @ k.transpose(1, 2)).softmax(-1) @ v)
        x = x + linear(state, torch.cat(out, -1), f"{at}.attn.out_proj")
        inner = functional.gelu(linear(state, norm(state, x, f"{at}.ln_2"), f"{at}.mlp.c_fc"))
        x = x + linear(state, inner, f"{at}.mlp.c_proj")
    return x


def resampler(state: State, features: Tensor) -> Tensor:
    """256 tokens an image, with ln_post and proj."""
    wide = state["proj"].shape[0]
    heads = wide // 128
    size = wide // heads
    values = norm(state, features @ state["attn_pool.kv_proj.weight"].T, "attn_pool.ln_kv")
    places = state["attn_pool.pos_embed"]
    keys = values + stretched(places, math.isqrt(features.shape[1]))
    queries = norm(state, state["attn_pool.query"], "attn_pool.ln_q") + places
    weights = state["attn_pool.attn.in_proj_weight"].chunk(3)
    biases = state["attn_pool.attn.in_proj_bias"].chunk(3)
    q, k, v = (
        x @ weight.T + bias
        for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
    )
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[:, part] @ k[..., part].transpose(1, 2) / size**0.5
        out.append(scores.softmax(-1) @ v[..., part])
    tokens = linear(state, torch.cat(out, -1), "attn_pool.attn.out_proj")
    return norm(state, tokens, "ln_post") @ state["proj"]


def ntk_alpha(length: int, config: dict[str, Any]) -> int:
    """The factor of the rotary base for a prompt of ``length``."""
    if not config["use_dynamic_ntk"]:
        return 1
    return max(2 ** math.ceil(math.log2(length / config["seq_length"]) + 1) - 1, 1)


def qwen(
    state: State,
    x: Tensor,
    config: dict[str, Any],
    prompt: int | None = None,
    padding: int = 0,
) -> Tensor:
    """Logits of embeddings s e, whose first ``prompt`` positions (all if None) are the prompt.

    The first ``padding`` positions count, and are seen by nobody.
    """
    heads, size, length = config["num_attention_heads"], config["kv_channels"], len(x)
    alpha = ntk_alpha(length if prompt is None else prompt, config)
    base = config["rotary_emb_base"] * alpha ** (size / (size - 2))
    steps = 1 / base ** (torch.arange(0, size, 2).float() / size)
    angles = torch.arange(length).float()[:, None] * steps
    cos, sin = (torch.cat((part, part), -1) for part in (angles.cos(), angles.sin()))
    mask = torch.full((length, length), float("-inf")).triu(1)
    mask[padding:, :padding] = float("-inf")
    grown = [max(1.0, math.log(p, config["seq_length"])) for p in range(1, length + 1)]
    scale = torch.tensor(grown)[:, None] if config["use_logn_attn"] else torch.ones(length, 1)

    def rms(x: Tensor, key: str) -> Tensor:
        size = (x.float().pow(2).mean(-1, keepdim=True) + config["layer_norm_epsilon"]).rsqrt()
        return (x.float() * size).to(x.dtype) * state[f"{key}.weight"]

    def turned(x: Tensor) -> Tensor:
        a, b = x.float().chunk(2, -1)
        return (x.float() * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)

    for number in range(config["num_hidden_layers"]):
        at = f"transformer.h.{number}"
        q, k, v = linear(state, rms(x, f"{at}.ln_1"), f"{at}.attn.c_attn").chunk(3, -1)
        out = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            asked = turned(q[:, part]) * scale.to(x.dtype)
            scores = asked @ turned(k[:, part]).T / size**0.5 + mask.to(x.dtype)
            out.append(scores.softmax(-1) @ v[:, part])
        x = x + linear(state, torch.cat(out, -1), f"{at}.attn.c_proj")
        y = rms(x, f"{at}.ln_2")
        up, gate = linear(state, y, f"{at}.mlp.w1"), linear(state, y, f"{at}.mlp.w2")
        x = x + linear(state, up * functional.silu(gate), f"{at}.mlp.c_proj")
    return rms(x, "transformer.ln_f") @ state["lm_head.weight"].T


def see(state: State, pixels: Tensor, config: dict[str, Any]) -> Tensor:
    """The tokens of normalised images: t 256 e."""
    own = {key.removeprefix(VISUAL): value for key, value in state.items() if VISUAL in key}
    return resampler(own, trunk(own, pixels, config["visual"]))


def chat(
    state: State,
    ids: Tensor,
    pixels: Tensor,
    config: dict[str, Any],
    *,
    prompt: int | None = None,
) -> Tensor:
    """Logits s v of one row of ids; slots are what lies between the tags ``<img>`` and ``</img>``."""
    start = config["visual"]["image_start_id"]
    x = state["transformer.wte.weight"][ids]
    if len(pixels):
        features = see(state, pixels, config)
        begins = (ids == start).nonzero().flatten().tolist()
        for begin, tokens in zip(begins, features, strict=True):
            assert ids[begin + len(tokens) + 1] == start + 1
            x = torch.cat((x[: begin + 1], tokens, x[begin + 1 + len(tokens) :]))
    return qwen(state, x, config, prompt)
