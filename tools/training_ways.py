"""The implementations of a training step that ``bench_training.py`` compares: models, samples, losses."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hdvl.bridges import PixelShuffleMLP
from hdvl.data.packing import Budget, fill
from hdvl.data.sizes import Size
from hdvl.encoders import TimmEncoder
from hdvl.llms import CausalLM, build_tokenizer
from hdvl.loss import targets
from hdvl.mergers import Concat
from hdvl.model import VLM
from hdvl.processor import Batch, Sample, collate, pack
from hdvl.protocols import EncodeImages, FeatureCache
from hdvl.templates import ChatML
from hdvl.tilers import SlidingWindow
from hdvl.training.step_loss import batch_loss

TILE, TOKENS, VOCABULARY, ROW = 224, 64, 8192, 2560
TEXT = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
}
VISION = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def own_model() -> VLM:
    torch.manual_seed(0)
    shape = {"embed_dim": 192, "depth": 4, "num_heads": 3, "patch_size": 14}
    return VLM(
        tiler=SlidingWindow(
            tile_size=TILE, stride=TILE, multiple_of=TILE, max_tiles=40, thumbnail=None
        ),
        encoder=TimmEncoder(name="vit_small_patch16_224", final_norm=True, config=shape),
        bridge=partial(PixelShuffleMLP, factor=2),
        merger=Concat,
        llm=CausalLM.from_config(
            config={"model_type": "qwen2", **TEXT}, tokenizer=build_tokenizer(vocab_size=400)
        ),
        template=ChatML(),
    ).train()


def peer_model(image_token: int) -> nn.Module:
    """Return a model of transformers' class with the same sizes."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    torch.manual_seed(0)
    vision = {**VISION, "intermediate_size": 768, "image_size": [TILE] * 2, "patch_size": [14] * 2}
    config = InternVLConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=image_token,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
    )
    return InternVLForConditionalGeneration(config).train()


def make_sample(vlm: VLM, tiles: int, text: int, generator: torch.Generator) -> Sample:
    """One image of so many tiles in front of random text, a tenth of all supervised at its end."""
    plan = vlm.tiler.plan(TILE * tiles, TILE) if tiles else None
    count = tiles * TOKENS
    words = torch.randint(300, (text,), generator=generator)
    ids = torch.cat([torch.full((count,), vlm.image_token_id), words])
    labels = torch.full_like(ids, -100)
    said = max(1, min(text - 1, len(ids) // 10))
    labels[-said:] = ids[-said:]
    shape = (plan.count if plan else 0, 3, TILE, TILE)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return Sample(ids=ids, labels=labels, pixels=pixels, plans=(plan,) if plan else ())


def mix(vlm: VLM, count: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        tiles = int(torch.randint(1, 13, (1,), generator=generator))
        text = int(torch.randn(1, generator=generator).mul(0.6).add(5.0).exp().clamp(16, 1024))
        found.append(make_sample(vlm, tiles, text, generator))
    return found


def loss_of(vlm: VLM, batch: Batch, total: float, cache: FeatureCache | None = None) -> Tensor:
    loss, _ = batch_loss(vlm, batch, feature_cache=cache)
    return loss / total


def masked_loss(vlm: VLM, row: Sequence[Sample], total: float) -> Tensor:
    """One row of ROW tokens: dense block-diagonal mask, every position through the head."""
    batch = pack(row)
    assert batch.segments is not None
    fillers = ROW - batch.input_ids.shape[1]
    segments = [*batch.segments, fillers] if fillers else list(batch.segments)
    ids = nn.functional.pad(batch.input_ids, (0, fillers))
    wanted = nn.functional.pad(targets(batch.labels, batch.segments), (0, fillers), value=-100)
    owner = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor(segments))
    mask = (owner[:, None] == owner[None]).tril()[None, None]
    places = torch.cat([torch.arange(size) for size in segments])[None]
    embeddings = vlm.merge_image_tokens(ids, vlm.encode_images(batch.pixels, batch.plans))
    logits = vlm.llm(embeddings, mask, places)
    return nn.functional.cross_entropy(logits[0].float(), wanted[0], reduction="sum") / total


def peer_loss(model: nn.Module, batch: Batch, total: float) -> Tensor:
    pixels = (batch.pixels.float() / 255 - 0.5) / 0.5
    out = model(
        input_ids=batch.input_ids,
        pixel_values=pixels,
        attention_mask=batch.attention_mask,
        labels=batch.labels,
        use_cache=False,
    )
    own = float((batch.labels[:, 1:] != -100).sum())
    loss: Tensor = out.loss * (own / total)
    return loss


def first_fit(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Rows of at most ROW tokens, longest samples first."""
    rows: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda item: -len(item.ids)):
        free = (r for r in rows if sum(len(s.ids) for s in r) + len(sample.ids) <= ROW)
        row = next(free, None)
        if row is None:
            rows.append([sample])
        else:
            row.append(sample)
    return rows


def packs_of(samples: Sequence[Sample], tokens: int) -> list[Batch]:
    sizes = [Size(len(sample.ids), len(sample.pixels)) for sample in samples]
    numbers, _ = fill(sizes, Budget(tokens=tokens, tiles=10**6), flush=True)
    return [pack([samples[i] for i in group]) for group in numbers]


class Step:
    """One way to make a step: a model, its optimizer, and the losses of its micro-batches."""

    def __init__(
        self, model: nn.Module, losses: Sequence[Callable[[], Tensor]], slots: int
    ) -> None:
        self.model, self.losses, self.slots = model, losses, slots
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def __call__(self, dtype: torch.dtype) -> float:
        found = 0.0
        for loss in self.losses:
            with autocast(dtype):
                part = loss()
            part.backward()
            found += float(part.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()
        return found


class Kept:
    """A cache of the encoder's features of each batch."""

    def __init__(self) -> None:
        self.known: dict[int, list[Tensor]] = {}

    def features(self, images: Sequence[Tensor], encode: EncodeImages) -> list[Tensor]:
        place = images[0].data_ptr()
        if place not in self.known:
            self.known[place] = encode(images)
        return self.known[place]


def autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast("cpu", dtype)


def ways(samples: Sequence[Sample], vlm: VLM, batch: int, budget: int) -> dict[str, Step]:
    """Every way with a model of its own: padded ``batch`` samples, packs of ``budget`` tokens."""
    total = float(sum((s.labels[1:] != -100).sum() for s in samples))
    tokens = sum(len(s.ids) for s in samples)
    masked, frozen, cached = own_model(), own_model(), own_model()
    for model in (frozen, cached):
        model.encoder.requires_grad_(False)
    kept = Kept()
    peer = peer_model(vlm.image_token_id)
    padded = [
        collate(samples[start : start + batch], pad_id=0) for start in range(0, len(samples), batch)
    ]
    packed = packs_of(samples, budget)
    rows = first_fit(samples)
    slots = sum(item.input_ids.numel() for item in padded)
    return {
        "hdvl, packed": Step(vlm, [partial(loss_of, vlm, b, total) for b in packed], tokens),
        "hdvl, packed, frozen encoder": Step(
            frozen, [partial(loss_of, frozen, b, total) for b in packed], tokens
        ),
        "hdvl, packed, cached features": Step(
            cached, [partial(loss_of, cached, b, total, cache=kept) for b in packed], tokens
        ),
        f"transformers InternVL, padded, {batch}": Step(
            peer, [partial(peer_loss, peer, b, total) for b in padded], slots
        ),
        "rows of 2560, dense mask": Step(
            masked, [partial(masked_loss, masked, r, total) for r in rows], ROW * len(rows)
        ),
    }
