"""Weight files: every format is read, and damaged files are named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hdvl.checkpoints.importers.published import Published, weight_files

STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b.weight": torch.arange(6, dtype=torch.bfloat16),
    "c.count": torch.tensor(7),
    "d.weight": torch.arange(8.0).reshape(2, 4).t(),
}
KINDS = ["safetensors", "zipped", "old"]


def save(state: dict[str, Tensor], file: Path, kind: str) -> None:
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zipped")


def write(folder: Path, kind: str, *, shards: int = 1, index: bool = True) -> Path:
    """``STATE`` in a folder, as others publish it."""
    folder.mkdir(exist_ok=True)
    stem, end = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    if shards == 1:
        save(STATE, folder / f"{stem}.{end}", kind)
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.{end}"
        part = dict(list(STATE.items())[number::shards])
        save(part, folder / file, kind)
        weight_map.update(dict.fromkeys(part, file))
    if index:
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / f"{stem}.{end}.index.json").write_text(text)
    return folder


def check(found: Published) -> None:
    assert found.shapes == {key: tuple(value.shape) for key, value in STATE.items()}
    assert found.dtypes == {key: value.dtype for key, value in STATE.items()}
    for key in [*STATE, *STATE]:  # in any order, and again
        assert torch.equal(found.read(key), STATE[key])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shards", "index"), [(1, False), (3, True), (2, False)])
def test_every_kind_of_file_is_read(tmp_path: Path, kind: str, shards: int, index: bool) -> None:
    check(Published.in_folder(write(tmp_path, kind, shards=shards, index=index)))


def test_one_safetensors_file_of_any_name(tmp_path: Path) -> None:
    save(STATE, tmp_path / "gptq_model-4bit-128g.safetensors", "safetensors")
    check(Published.in_folder(tmp_path))


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    write(tmp_path, "safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"of another model")
    check(Published.in_folder(tmp_path))


def test_a_dict_within_a_file_and_folders_joined(tmp_path: Path) -> None:
    torch.save({"model": STATE, "iteration": 3}, tmp_path / "x.bin")
    inner = Published.in_files([tmp_path / "x.bin"], inner="model")
    check(inner)
    joined = Published.joined({"": inner, "n/": Published.in_folder(write(tmp_path / "n", "old"))})
    assert set(joined.shapes) == {*STATE, *(f"n/{key}" for key in STATE)}
    assert torch.equal(joined.read("n/a.weight"), STATE["a.weight"])
    assert joined.place("a.weight") != joined.place("n/a.weight")


def test_the_commonest_type_counts_numbers_not_tensors(tmp_path: Path) -> None:
    found = Published.in_folder(write(tmp_path, "zipped"))
    assert found.common_dtype() == torch.float32
    torch.save({"q": torch.zeros(9, dtype=torch.int32)}, tmp_path / "q.bin")
    assert Published.in_files([tmp_path / "q.bin"]).common_dtype() == torch.float32


# --- what is not whole --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.0])
def test_a_file_cut_short(tmp_path: Path, kind: str, kept: float) -> None:
    folder = write(tmp_path, kind, shards=2)
    file = sorted(folder.glob("*-00002-of-*"))[0]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    message = rf"must be complete, they are not: {file.name} is damaged.*; copy those files again"
    with pytest.raises(ValueError, match=message):
        Published.in_folder(folder)


@pytest.mark.parametrize("index", [True, False])
def test_all_absent_shards_are_named_at_once(tmp_path: Path, index: bool) -> None:
    folder = write(tmp_path, "safetensors", shards=4, index=index)
    for number in (1, 3):
        (folder / f"model-0000{number}-of-00004.safetensors").unlink()
    absent = (
        r"model-00001-of-00004.safetensors does not exist; model-00003-of-00004.* does not exist"
    )
    with pytest.raises(ValueError, match=absent):
        Published.in_folder(folder)


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid x")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pointer of git-lfs, not the"):
        Published.in_folder(tmp_path)


def test_a_shard_that_lacks_what_the_index_lists(tmp_path: Path) -> None:
    folder = write(tmp_path, "zipped", shards=2)
    save({"a.weight": STATE["a.weight"]}, folder / "pytorch_model-00001-of-00002.bin", "zipped")
    with pytest.raises(ValueError, match=r"00001-of-00002\.bin lacks c\.count, which the index"):
        Published.in_folder(folder)


def test_a_tensor_stored_twice(tmp_path: Path) -> None:
    folder = write(tmp_path, "zipped", shards=2, index=False)
    save(STATE, folder / "pytorch_model-00002-of-00002.bin", "zipped")
    with pytest.raises(ValueError, match=r"a\.weight is in pytorch_model-00001-of-00002\.bin and"):
        Published.in_folder(folder)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1), "step": 3}, file)
    with pytest.raises(ValueError, match="must hold a flat dict of tensors"):
        Published.in_folder(tmp_path)
    torch.save({"a": Path("/")}, file)
    with pytest.raises(ValueError, match=r"holds more than tensors: Weights only load failed"):
        Published.in_folder(tmp_path)
    torch.save({"other": {}}, file)
    with pytest.raises(ValueError, match=r"must hold a dict under 'model', got \['other'\]"):
        Published.in_files([file], inner="model")


def test_folders_without_weights_and_bad_indexes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold weights: one of model\.safetensors\.index"):
        weight_files(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for text in ("{", "{}", "[]"):
        index.write_text(text)
        with pytest.raises(ValueError, match="must be JSON"):
            weight_files(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(
        ValueError, match=r"must name files beside it, got \['\.\./a\.safetensors'\]"
    ):
        weight_files(tmp_path)
