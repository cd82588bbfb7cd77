"""Conversion of published folders: the same weights as in the loaded model, with little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import hdvl
from hdvl.checkpoints import is_model_folder, load_folder, read_config
from hdvl.checkpoints.importers import convert, load_published
from hdvl.model import VLM
from tests.xverse_v_reference import Sizes, write_folder, write_parts

SIZES = Sizes()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder in several shards. Tests read it and leave it as it is."""
    return write_folder(tmp_path_factory.mktemp("published") / "m", SIZES, shards=3)


def same(one: VLM, other: VLM) -> None:
    theirs = other.state_dict()
    assert set(one.state_dict()) == set(theirs)
    for name, value in one.state_dict().items():
        assert value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]), name


@pytest.mark.slow
def test_a_converted_folder_is_the_loaded_model(source: Path, tmp_path: Path) -> None:
    folder = convert(source, tmp_path / "native", max_shard=50_000)
    assert is_model_folder(folder) and len(list(folder.glob("model-*.safetensors"))) > 3
    assert not (folder / "tokenizer").exists()
    same(load_folder(folder), load_published(source))
    stored = read_config(folder)
    assert stored["converted_from"] == "xverse_v" and str(source) not in json.dumps(stored)
    assert stored["model"]["image_token_id"] == -1 and stored["model"]["llm"]["stop_ids"] == [3]
    assert 'license: "other"' in (folder / "README.md").read_text()
    assert hdvl.load(folder).model.llm.stop_ids == (3,)


@pytest.mark.slow
def test_types_are_those_of_most_weights_or_as_asked(tmp_path: Path) -> None:
    """XVERSE-V has a bfloat16 language model, and a float32 encoder and adapter."""
    states = SIZES.states()
    states["llm"] = {key: value.to(torch.bfloat16) for key, value in states["llm"].items()}
    configs = {"vision_config": SIZES.vision_config, "llm_config": SIZES.llm_config}
    source = write_parts(tmp_path / "m", states, **configs)
    assert dtypes(load_published(source)) == {torch.bfloat16}
    assert dtypes(load_folder(convert(source, tmp_path / "half"))) == {torch.bfloat16}
    assert dtypes(hdvl.load(source, dtype="float16").model) == {torch.float16}
    whole = load_published(source, dtype=torch.float32)
    key, target = "model.layers.0.mlp.up_proj", "model.model.layers.0.mlp.up_proj.weight"
    at = f"llama_model.base_model.model.{key}"
    a, b = (states["adapter"][f"{at}.lora_{side}.weight"] for side in "AB")
    wanted = states["llm"][f"{key}.weight"].float() + 2.0 * b @ a
    merged = whole.llm.state_dict()[target]
    torch.testing.assert_close(merged, wanted, atol=1e-6, rtol=1e-6)  # nothing rounded on the way
    half = load_published(source).llm.state_dict()[target]
    assert torch.equal(half, merged.to(torch.bfloat16))


def dtypes(vlm: VLM) -> set[torch.dtype]:
    return {value.dtype for value in vlm.parameters()}


@pytest.mark.slow
def test_both_spellings_and_any_rank_merge_to_the_same(source: Path, tmp_path: Path) -> None:
    states = SIZES.states()
    rename = {k: k.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
              for k in states["adapter"]}  # fmt: skip
    states["adapter"] = {rename[key]: widened(key, v) for key, v in states["adapter"].items()}
    configs = {"vision_config": SIZES.vision_config, "llm_config": SIZES.llm_config}
    other = load_published(write_parts(tmp_path / "m", states, **configs))
    for name, value in load_published(source).state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=1e-6, rtol=1e-6)


def widened(key: str, value: Tensor) -> Tensor:
    """A LoRA of one rank more, which adds nothing."""
    if ".lora_A" in key:
        return torch.cat((value, torch.ones(1, value.shape[1])))
    return torch.cat((value, torch.zeros(len(value), 1)), 1) if ".lora_B" in key else value


@pytest.mark.slow
def test_overrides_change_numbers_of_parts(source: Path) -> None:
    pipe = hdvl.load(source, tiler={"max_tiles": 4, "axes": "natural"}, encode_chunk=2)
    assert pipe.tiler.max_tiles == 4 and pipe.model.encode_chunk == 2
    with pytest.raises(ValueError, match=r"model has no tiler\.tiles to override"):
        hdvl.load(source, tiler={"tiles": 4})


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "m", SIZES, shards=2)
    to = tmp_path / "native"
    file = sorted((source / "chat").glob("*.bin"))[1]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{file.name} is damaged, truncated"):
        convert(source, to)
    file.write_bytes(whole)
    vision = source / "clip" / "model.safetensors"
    state = load_file(vision)
    save_file({**state, "stray": torch.ones(1)}, vision)
    with pytest.raises(ValueError, match="surplus: vision/stray"):
        convert(source, to)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    save_file(state, vision)
    to.mkdir()
    (to / "thesis.txt").touch()
    with pytest.raises(ValueError, match="contains files that are no model"):
        convert(source, to)


MEASURED = """
import resource, sys
from pathlib import Path
from hdvl.checkpoints.importers import convert
warm, source, to = map(Path, sys.argv[1:])
convert(warm, to / "warm")                       # imports, caches of the libraries
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
Path("/proc/self/clear_refs").write_text("5")    # the peak starts anew
before = peak()
convert(source, to / "native", max_shard=10**8)
print(peak() - before)
"""
BIG = Sizes(width=768, inner=1024, layers=12, heads=12, vocabulary=1200, rank=32)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["zipped", "old", "safetensors"])
def test_the_peak_is_one_shard_and_a_tenth(tmp_path: Path, source: Path, kind: str) -> None:
    """In bytes of this process, mapped files counted: at most the largest shard and 10 %."""
    states = {
        part: {key: torch.ones(shape) for key, shape in shapes.items()}
        for part, shapes in BIG.manifest().items()
    }
    configs = {"vision_config": BIG.vision_config, "llm_config": BIG.llm_config}
    folder = write_parts(tmp_path / "m", states, **configs)
    (folder / "chat" / "pytorch_model.bin").unlink()
    keys = list(states["llm"])
    for number in range(3):
        shard = {key: states["llm"][key] for key in keys[number::3]}
        stem = folder / "chat" / f"pytorch_model-0000{number + 1}-of-00003"
        if kind == "safetensors":
            save_file(shard, f"{stem}.safetensors")
        else:
            torch.save(shard, f"{stem}.bin", _use_new_zipfile_serialization=kind == "zipped")
    largest = max(file.stat().st_size for file in folder.rglob("pytorch_model-*"))
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert total > 2.5 * largest
    command = [sys.executable, "-c", MEASURED, str(source), str(folder), str(tmp_path / "out")]
    # The C library gives back at once what is as large as the tensors of a real model (32 MiB).
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    print(
        f"{kind}: peak {peak / 1e6:.0f} MB, largest shard {largest / 1e6:.0f}, all {total / 1e6:.0f}"
    )
    assert peak <= 1.1 * largest
