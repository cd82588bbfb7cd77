"""Models in bf16 whose positions are as exact as those in float32."""

import torch
from torch import nn

from hdvl.precision import converted, unstored
from tests.tiny_model import tiny_vlm


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("table", torch.rand(2))
        self.register_buffer("frequencies", torch.rand(2), persistent=False)
        self.register_buffer("order", torch.arange(2), persistent=False)


def test_what_is_stored_is_converted_and_the_rest_kept() -> None:
    module = nn.Sequential(Rotary(), nn.Linear(2, 2))
    exact = module[0].frequencies.clone()
    assert set(unstored(module)) == {"0.frequencies"}
    assert converted(module, dtype=torch.bfloat16) is module
    assert {p.dtype for p in module.parameters()} == {module[0].table.dtype} == {torch.bfloat16}
    assert torch.equal(module[0].frequencies, exact) and "0.frequencies" in dict(
        module.named_buffers()
    )
    assert module[0].order.dtype == torch.long
    assert converted(module) is module and module[0].frequencies.dtype == torch.float32
    assert converted(module, device="meta")[0].frequencies.is_meta


def test_far_positions_are_closer_to_float32() -> None:
    """A cast of the whole model, frequencies and all, is further from it."""
    embeddings = torch.randn(1, 1500, 32)
    llms = [tiny_vlm().llm.eval() for _ in range(3)]
    kept, cast = converted(llms[1], dtype=torch.bfloat16), llms[2].to(torch.bfloat16)
    with torch.inference_mode():
        exact = llms[0](embeddings)[:, -500:]
        near, far = (
            (llm(embeddings.bfloat16())[:, -500:].float() - exact).norm() for llm in (kept, cast)
        )
    assert near < 0.8 * far
