"""Models in bf16 keep rotary frequencies in float32."""

import pytest
import torch
from torch import nn

from hdvl.encoders import TimmEncoder
from hdvl.precision import converted, frequencies
from tests.tiny_model import tiny_vlm


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.rand(2))
        self.register_buffer("inv_freq", torch.rand(2), persistent=False)
        self.register_buffer("mask", torch.rand(2), persistent=False)
        self.register_buffer("order", torch.arange(2), persistent=False)


def test_frequencies_are_kept_and_all_else_is_converted() -> None:
    module = nn.Sequential(Rotary(), nn.Linear(2, 2))
    exact = module[0].inv_freq.clone()
    assert set(frequencies(module)) == {"0.inv_freq"}
    assert converted(module, dtype=torch.bfloat16) is module
    assert {p.dtype for p in module.parameters()} == {module[0].table.dtype} == {torch.bfloat16}
    assert torch.equal(module[0].inv_freq, exact) and "0.inv_freq" in dict(module.named_buffers())
    assert module[0].order.dtype == torch.long and module[0].mask.dtype == torch.bfloat16
    assert converted(module) is module and module[0].inv_freq.dtype == torch.float32
    assert converted(module, device="meta")[0].inv_freq.is_meta


def test_far_positions_are_closer_to_float32() -> None:
    """A cast of the whole model, including frequencies, has a larger error."""
    embeddings = torch.randn(1, 1500, 32)
    llms = [tiny_vlm().llm.eval() for _ in range(3)]
    kept, cast = converted(llms[1], dtype=torch.bfloat16), llms[2].to(torch.bfloat16)
    with torch.inference_mode():
        exact = llms[0](embeddings)[:, -500:]
        near, far = (
            (llm(embeddings.bfloat16())[:, -500:].float() - exact).norm() for llm in (kept, cast)
        )
    assert near < 0.8 * far


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's, of tables at another size
@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "vit_relpos_small_patch16_224", "beit_base_patch16_224"]
)
def test_encoders_with_tables_of_their_own(name: str) -> None:
    """Buffers that are not in the state dict, such as biases and coordinates, are cast too."""
    size = 56 if "14" in name else 64
    config = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    encoder = TimmEncoder.from_pretrained(name=name, weights=None, tile_size=size, config=config)
    pixels = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        exact = encoder.eval()(pixels)
        rounded = converted(encoder, dtype=torch.bfloat16)(pixels)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device must be cpu, cuda"),
        ("cuda:99", "device=cuda:99 must exist, this machine has"),
    ],
)
def test_devices_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        converted(torch.nn.Linear(2, 2), device=name)
