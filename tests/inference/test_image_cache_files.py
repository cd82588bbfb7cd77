"""Visual tokens in files: found by later processes, by the same model alone, within a bound."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hdvl.inference import Pipeline
from hdvl.inference.image_cache_files import ImageCacheFiles, encoder_fingerprint
from tests.tiny_model import tiny_vlm


def make_image(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (40, 70, 3), dtype=np.uint8)


def pipeline(folder: Path, **more: Any) -> Pipeline:
    torch.manual_seed(0)
    return Pipeline(model=tiny_vlm(), engine={"image_cache_folder": folder, **more})


def test_a_later_process_finds_the_tokens(tmp_path: Path) -> None:
    first = pipeline(tmp_path)
    text = first.chat("What?", make_image(0), max_new_tokens=8).text
    counters = first.engine.counters
    assert (counters.image_cache_file_hits, counters.image_cache_misses) == (0, 1)
    assert counters.image_cache_file_bytes > 0
    second = pipeline(tmp_path)
    assert second.chat("What?", make_image(0), max_new_tokens=8).text == text
    second.chat("Why?", make_image(0), max_new_tokens=2)
    counters = second.engine.counters
    assert counters.image_cache_file_hits == 1 and counters.image_cache_misses == 0
    assert counters.image_cache_file_bytes == sum(
        file.stat().st_size for file in tmp_path.rglob("*.safetensors")
    )


def test_other_weights_do_not_find_them(tmp_path: Path) -> None:
    pipe = pipeline(tmp_path)
    pipe.chat("What?", make_image(0), max_new_tokens=2)
    before = encoder_fingerprint(pipe.model)
    with torch.no_grad():
        next(pipe.model.bridge.parameters()).add_(0.5)
    assert encoder_fingerprint(pipe.model) != before
    pipe.chat("What?", make_image(0), max_new_tokens=2)
    assert pipe.engine.counters.image_cache_misses == 2
    assert pipe.engine.counters.image_cache_file_hits == 0
    with torch.no_grad():
        next(pipe.model.bridge.parameters()).sub_(0.5)
        next(iter(pipe.model.llm.parameters())).add_(0.1)  # not what visual tokens depend on
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_the_folder_is_bounded_and_those_used_last_stay(tmp_path: Path) -> None:
    vlm = tiny_vlm()
    files = ImageCacheFiles(tmp_path, 8000, vlm)
    tokens = [torch.full((10, 32), float(number)) for number in range(8)]
    for number, value in enumerate(tokens):
        files.put(bytes([number]), value)
        for place, (_, _, path) in enumerate(sorted(files._files())):
            os.utime(path, (place, place))  # their order does not depend on the clock
        found = files.get(bytes([0]))
        assert found is not None and torch.equal(found, tokens[0])
    assert files.evictions >= 3 and files.bytes <= 8000
    assert files.get(bytes([7])) is not None and files.get(bytes([2])) is None
    files.put(b"large", torch.zeros(3000))
    assert files.get(b"large") is None
    with pytest.raises(ValueError, match=r"image_cache_folder_bytes must be at least 1, got 0"):
        ImageCacheFiles(tmp_path, 0, vlm)


def test_damaged_files_and_several_writers(tmp_path: Path, caplog: Any) -> None:
    vlm = tiny_vlm()
    one, other = (ImageCacheFiles(tmp_path, 100_000, vlm) for _ in range(2))
    tokens = torch.arange(320.0).view(10, 32)

    def work(number: int) -> None:
        files = (one, other)[number % 2]
        files.put(bytes([number % 5]), tokens + number % 5)
        found = files.get(bytes([number % 5]))
        assert found is not None and torch.equal(found, tokens + number % 5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(40)))
    assert len(list(tmp_path.rglob("*"))) == 5 + len(
        {p.parent for p in tmp_path.rglob("*.safetensors")}
    )
    path = one._path(bytes([3]))
    path.write_bytes(path.read_bytes()[:50])
    assert other.get(bytes([3])) is None and not path.exists()
    assert "holds no visual tokens" in caplog.text
