"""Products of a few rows with many small matrices."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hdvl.llms import small_products
from hdvl.llms.small_products import products, products_side_by_side


def use_numpy(monkeypatch: pytest.MonkeyPatch, pays: bool) -> list[int]:
    """Take numpy's products or torch's; what is returned gets an item for each of numpy's."""
    calls: list[int] = []
    matmul = np.matmul

    def counted(rows: np.ndarray, matrices: np.ndarray, *, out: np.ndarray) -> None:
        calls.append(1)
        matmul(rows, matrices, out=out)

    monkeypatch.setattr(small_products, "mkl_is_slow", lambda: pays)
    monkeypatch.setattr(small_products, "_numpy_has_openblas", lambda: pays)
    monkeypatch.setattr(torch, "get_num_threads", lambda: small_products.THREADS)
    monkeypatch.setattr(np, "matmul", counted)
    return calls


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5])
@torch.inference_mode()
def test_both_libraries_give_the_products(
    monkeypatch: pytest.MonkeyPatch, pays: bool, rows: int
) -> None:
    calls = use_numpy(monkeypatch, pays)
    given, matrices = torch.randn(3, rows, 7), torch.randn(3, 9, 7)[:, :4].transpose(1, 2)
    torch.testing.assert_close(products(given, matrices), given @ matrices)
    beside = torch.cat(list(given[0] @ matrices), -1)
    torch.testing.assert_close(products_side_by_side(given[0], matrices), beside)
    assert len(calls) == (2 if pays and rows > 1 else 0)


@torch.inference_mode()
def test_large_products_and_other_types_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use_numpy(monkeypatch, True)
    monkeypatch.setattr(small_products, "LARGEST", 5 * 7 * 4)
    matrices = torch.randn(2, 7, 4)
    for rows, own in ((5, matrices), (6, matrices), (5, matrices.double())):
        given = torch.randn(2, rows, 7, dtype=own.dtype)
        torch.testing.assert_close(products(given, own), given @ own)
    assert len(calls) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: small_products.THREADS + 1)
    products(torch.randn(2, 5, 7), matrices)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "processor, capability, mkl, slow",
    [
        ("AuthenticAMD", "AVX512", True, True),
        ("GenuineIntel", "AVX512", True, False),
        ("AuthenticAMD", "AVX2", True, False),
        ("AuthenticAMD", "AVX512", False, False),
        (None, "AVX512", True, False),
    ],
)
def test_mkl_is_slow_on_amd_with_avx512(
    processor: str | None,
    capability: str,
    mkl: bool,
    slow: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if processor is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {processor}\n")
    monkeypatch.setattr(small_products, "Path", lambda name: tmp_path / Path(name).name)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert small_products.mkl_is_slow.__wrapped__() == slow


def test_the_library_of_numpy_is_found_in_its_configuration() -> None:
    small_products._numpy_has_openblas.cache_clear()
    assert small_products._numpy_has_openblas() == ("openblas" in str(np.show_config("dicts")))
