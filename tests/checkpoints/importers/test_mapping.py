"""The mapping from stored tensors to a model's, checked with shapes and then with values."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hdvl.checkpoints.importers import mapping as table
from hdvl.checkpoints.importers import published as files
from hdvl.checkpoints.importers.mapping import TensorSource, merge_lora, qkv_rows, renamed
from hdvl.checkpoints.importers.published import Published


def published(folder: Path, **state: Tensor) -> Published:
    torch.save({key.replace("__", "."): value for key, value in state.items()}, folder / "x.bin")
    return Published.in_files([folder / "x.bin"])


def test_renaming_by_the_first_rule_that_matches_whole() -> None:
    rules = [(r"llm\.head\.(.*)", r"lm_head.\1"), (r"llm\.(.*)", r"model.\1")]
    found = renamed(["llm.head.weight", "llm.norm.weight", "bridge.weight"], rules)
    assert {target: entry.keys for target, entry in found.items()} == {
        "llm.head.weight": ("lm_head.weight",),
        "llm.norm.weight": ("model.norm.weight",),
    }


def test_thirds() -> None:
    value = torch.arange(12.0).reshape(6, 2)
    assert torch.equal(torch.cat([qkv_rows(i)(value) for i in range(3)]), value)
    assert qkv_rows(1)(value).tolist() == [[4, 5], [6, 7]]
    with pytest.raises(ValueError, match="rows must come in three equal parts, got 5"):
        qkv_rows(0)(value[:5])


def test_lora_is_merged_in_float32() -> None:
    base = torch.randn(5, 7).to(torch.bfloat16)
    a, b = torch.randn(2, 7).half(), torch.randn(5, 2)
    before = base.clone()
    merged = merge_lora(2.0)(base, a, b)
    assert merged.dtype == torch.float32 and torch.equal(base, before)
    wanted = base.double() + 2 * b.double() @ a.double()
    torch.testing.assert_close(merged.double(), wanted, atol=1e-6, rtol=1e-6)
    single = torch.randn(5, 7)
    kept = single.clone()
    merge_lora(2.0)(single, a, b)
    assert torch.equal(single, kept), "a stored float32 tensor is read-only"


class Tied(nn.Module):
    """Two linear layers, the second of which shares the weight of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4, bias=False)
        self.second.weight = self.first.weight


MAPPING = {"first.weight": TensorSource(("w", "v"), torch.add), "first.bias": TensorSource(("b",))}


def test_a_table_that_fits_gives_each_tensor_once(tmp_path: Path) -> None:
    found = published(
        tmp_path, w=torch.ones(4, 3), v=torch.ones(4, 3), b=torch.ones(4), extra=torch.ones(1)
    )
    table.check(MAPPING, found, Tied(), ignorable=("ext.a",))
    made = dict(table.stream(MAPPING, found, torch.bfloat16))
    assert made["first.weight"].dtype == torch.bfloat16 and made["first.weight"].eq(2).all()
    whole = published(tmp_path, b=torch.arange(4))
    made = dict(table.stream({"first.bias": TensorSource(("b",))}, whole, torch.bfloat16))
    assert made["first.bias"].dtype == torch.int64, "only floating-point numbers are cast"


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float64, torch.float8_e4m3fn])
def test_numbers_of_another_type_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    found = published(tmp_path, w=torch.ones(4, 3), v=torch.ones(4, 3), b=torch.ones(4).to(kind))
    with pytest.raises(ValueError, match=rf"stored as: b in x\.bin is {kind} for torch\.float32"):
        table.check(MAPPING, found, Tied())


def test_everything_that_does_not_fit_is_one_error(tmp_path: Path) -> None:
    found = published(tmp_path, w=torch.ones(4, 3), v=torch.ones(4, 2), extra=torch.ones(1))
    entries = {**MAPPING, "third.bias": TensorSource((), lambda: torch.ones(2))}
    with pytest.raises(ValueError) as raised:
        table.check(entries, found, nn.Sequential(nn.Linear(1, 1)), ignorable=("ext",))
    said = str(raised.value)
    assert "missing: b;" in said and "surplus: extra;" in said
    assert "without a source: 0.bias, 0.weight;" in said
    assert "not in the model: first.bias, first.weight, third.bias" in said
    with pytest.raises(ValueError) as raised:
        table.check(
            MAPPING,
            published(tmp_path, w=torch.ones(4, 3), v=torch.ones(5, 3), b=torch.ones(3)),
            Tied(),
        )
    said = str(raised.value)
    assert r"w (4, 3), v (5, 3) cannot make first.weight (4, 3): " in said
    assert "b (3,) for first.bias (4,)" in said


def test_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    for name, state in {"1": {"a": 1, "c": 3}, "2": {"b": 2, "d": 4}}.items():
        torch.save(
            {key: torch.tensor(float(v)) for key, v in state.items()}, tmp_path / f"{name}.bin"
        )
    found = Published.in_files([tmp_path / "1.bin", tmp_path / "2.bin"])
    entries = {name: TensorSource((name,)) for name in "bdac"} | {
        "e": TensorSource((), lambda: torch.ones(1))
    }
    assert [name for name, _ in table.stream(entries, found)] == ["a", "c", "e", "b", "d"]


def test_unchanged_tensors_keep_the_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converted tensors do not keep their file open, but unchanged ones do."""
    found = published(tmp_path, **{f"n{number}": torch.ones(100) for number in range(40)})
    entries = {name: TensorSource((name,)) for name in found.shapes}
    opened = list[Path]()

    class Counted(files._PickledFile):
        def __init__(self, file: Path, inner: str | None) -> None:
            opened.append(file)
            super().__init__(file, inner)

    monkeypatch.setattr(files, "_PickledFile", Counted)
    assert len(dict(table.stream(entries, found))) == 40 and not opened
    assert len(dict(table.stream(entries, found, torch.float16))) == 40 and len(opened) > 5
