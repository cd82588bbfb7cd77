"""Cached features of a frozen encoder: no call from the second epoch on, equal losses, damage is detected."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hdvl.callbacks.feature_cache import FeatureCacheCallback, FeatureStore, encoder_hash
from hdvl.config import compose, to_plain
from hdvl.processor import Processor, collate
from hdvl.protocols import Message
from hdvl.training.module import VLMModule
from hdvl.training.tuning import apply_tuning, set_modes
from tests.tiny_model import tiny_vlm

TUNING = {"encoder": "frozen", "bridge": "full", "merger": "full", "llm": "full"}


def frozen(seed=0):
    """A model whose encoder counts the tiles it is given."""
    vlm = tiny_vlm(seed=seed)
    apply_tuning(vlm, TUNING)
    vlm.train()
    set_modes(vlm, TUNING)
    vlm.seen = []
    vlm.encoder.register_forward_pre_hook(lambda _, inputs: vlm.seen.append(len(inputs[0])))
    return vlm


def samples(vlm):
    """Three images of 1, 3 and 5 tiles, a text, and two images together."""
    processor = Processor.of(vlm)
    noise = np.random.default_rng(0)
    shapes = [(32, 32, 3), (32, 64, 3), (64, 64, 3)]
    images = [Image.fromarray(noise.integers(0, 255, s, dtype=np.uint8)) for s in shapes]
    shown = [(images[0],), (images[1],), (), (images[2],), (images[0], images[2])]
    return [
        processor([Message("user", "What?", images), Message("assistant", f"Answer {number}.")])
        for number, images in enumerate(shown)
    ]


def batches(vlm):
    made = samples(vlm)
    return [collate(made[:2], pad_id=0), collate(made[2:3], pad_id=0), collate(made[3:], pad_id=0)]


def epoch(vlm, given, optimizer, cache):
    losses = []
    for batch in given:
        output = vlm(
            batch.input_ids, batch.pixels, batch.plans, None, batch.labels, feature_cache=cache
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    return losses


def two_epochs(cache_of=lambda vlm: None):
    """Losses, tiles encoded in the first and in the second epoch, and the cache."""
    vlm = frozen()
    given = batches(vlm)
    cache = cache_of(vlm)
    optimizer = torch.optim.SGD([p for p in vlm.parameters() if p.requires_grad], lr=0.1)
    losses = epoch(vlm, given, optimizer, cache)
    seen = sum(vlm.seen)
    return losses + epoch(vlm, given, optimizer, cache), seen, sum(vlm.seen) - seen, cache


def test_the_second_epoch_encodes_nothing_and_the_losses_are_the_same(tmp_path):
    torch.manual_seed(0)
    plain, first, second, _ = two_epochs()
    assert first == second > 0
    cached, cached_first, cached_second, cache = two_epochs(
        lambda vlm: FeatureStore(tmp_path, vlm.encoder)
    )
    assert 0 < cached_first < first and cached_second == 0
    assert cached == pytest.approx(plain, abs=1e-6)
    assert cached[0] != cached[3]
    assert cache.encoded == 4 and cache.damaged == 0  # three images and the blank tile
    again, cold, warm, other = two_epochs(lambda vlm: FeatureStore(tmp_path, vlm.encoder))
    assert cold == warm == 0 and again == cached
    assert other.summary().startswith("feature cache: 12 images read, 0 encoded, ")


@pytest.mark.slow
def test_rounded_features_are_the_same_in_all_epochs(tmp_path):
    def store(vlm):
        return FeatureStore(tmp_path, vlm.encoder, dtype="float16")

    first, *_ = two_epochs(store)
    again, cold, warm, _ = two_epochs(store)
    assert cold == warm == 0 and first == again
    plain, *_ = two_epochs()
    assert first != plain and first == pytest.approx(plain, abs=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "empty"])
def test_damaged_entries_are_seen_and_made_anew(tmp_path, damage):
    plain, *_ = two_epochs(lambda vlm: FeatureStore(tmp_path, vlm.encoder))
    files = sorted(tmp_path.glob("*/*/*.safetensors"), key=lambda file: file.stat().st_size)
    small, large = files[-2:]
    data = large.read_bytes()
    broken = {
        "cut": data[:-10],
        "flip": data[:-9] + bytes([data[-9] ^ 64]) + data[-8:],
        "swap": small.read_bytes(),
        "empty": b"",
    }[damage]
    large.write_bytes(broken)
    with pytest.warns(UserWarning, match="its image is encoded again"):
        again, encoded, then, cache = two_epochs(lambda vlm: FeatureStore(tmp_path, vlm.encoder))
    assert again == pytest.approx(plain, abs=1e-6) and encoded > 0 and then == 0
    assert cache.damaged == 1 and "1 damaged" in cache.summary()
    assert large.stat().st_size == len(data)
    assert FeatureStore(tmp_path, frozen().encoder)._find(large.stem) is not None
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_another_encoder_has_other_entries(tmp_path):
    first, second = frozen(seed=0), frozen(seed=1)
    assert encoder_hash(first.encoder) == encoder_hash(frozen(seed=0).encoder)
    assert encoder_hash(first.encoder) != encoder_hash(second.encoder)
    changed = frozen(seed=0)
    next(iter(changed.encoder.modules())).select_layer = -2
    assert encoder_hash(first.encoder) != encoder_hash(changed.encoder)
    store = FeatureStore(tmp_path, first.encoder)
    batch = batches(first)[0]
    images = torch.split(batch.pixels, [plan.count for plan in batch.plans])
    store.features(images, first._encode_each)
    other = FeatureStore(tmp_path, second.encoder)
    expected = torch.split(second.encoder(batch.pixels), [len(tiles) for tiles in images])
    torch.testing.assert_close(other.features(images, second._encode_each), list(expected))
    assert other.read == 0


def test_precision_is_part_of_the_key(tmp_path):
    vlm = frozen()
    store = FeatureStore(tmp_path, vlm.encoder)
    batch = batches(vlm)[0]
    images = torch.split(batch.pixels, [plan.count for plan in batch.plans])
    whole = torch.cat(store.features(images, vlm._encode_each))
    with torch.autocast("cpu", torch.bfloat16):
        half = torch.cat(store.features(images, vlm._encode_each))
        again = torch.cat(store.features(images, vlm._encode_each))
    assert store.encoded == 4 and store.read == 2
    assert torch.equal(half, again) and half.dtype == again.dtype
    assert not torch.equal(whole, half.float())


@pytest.mark.slow
def test_the_limit_of_the_disk_is_held_and_said(tmp_path):
    losses, first, second, cache = two_epochs(
        lambda vlm: FeatureStore(tmp_path, vlm.encoder, max_bytes=5_000)
    )
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert 0 < written <= 6_000 and 0 < second < first
    assert "not kept: max_bytes=5000 is reached" in cache.summary()
    assert losses == pytest.approx(two_epochs()[0], abs=1e-6)


def test_an_encoder_that_trains_is_refused(tmp_path, unchecked):
    vlm = tiny_vlm()
    with pytest.raises(ValueError, match=r"frozen encoder only; set tuning.encoder=frozen"):
        FeatureStore(tmp_path, vlm.encoder)
    vlm.encoder.requires_grad_(False)
    store = FeatureStore(tmp_path, vlm.encoder.train())
    with pytest.raises(RuntimeError, match="must be in evaluation mode"):
        store.features([torch.zeros(1, 3, 32, 32, dtype=torch.uint8)], vlm._encode_each)
    with unchecked(), pytest.raises(ValueError, match="dtype must be one of float32"):
        FeatureStore(tmp_path, vlm.encoder, dtype="int8")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_training_takes_and_gives_back_its_cache(tmp_path: Path, capsys):
    vlm = frozen()
    optimizer = to_plain(compose("optimizer.schedule=constant").optimizer)
    module = VLMModule(vlm, optimizer=optimizer, tuning=TUNING)
    given = batches(vlm)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FeatureCacheCallback(folder=str(tmp_path))],
    )
    trainer.fit(module, DataLoader(given, batch_size=None))
    assert module.feature_cache is None
    assert "feature cache: " in capsys.readouterr().out
    assert trainer.callbacks[0].store.encoded == 4
    assert sum(vlm.seen) == sum(plan.count for plan in given[0].plans) + 1 + given[2].plans[0].count
