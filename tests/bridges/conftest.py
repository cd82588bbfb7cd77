"""What every bridge must do."""

from collections.abc import Callable

import pytest
import torch

from hdvl.protocols import Bridge, BridgeFactory


@pytest.fixture
def check_bridge() -> Callable[[BridgeFactory], Bridge]:
    """Builds a bridge and checks shapes, other grids, independence of tiles, and gradients."""

    def check(factory: BridgeFactory) -> Bridge:
        bridge = factory(in_width=6, out_width=16, grid=(4, 8))
        assert isinstance(bridge, Bridge)
        assert bridge.out_grid == bridge.grid_for((4, 8))
        features = torch.randn(3, 32, 6, requires_grad=True)
        tokens = bridge(features)
        rows, cols = bridge.out_grid
        assert tokens.shape == (3, rows * cols, 16)
        assert torch.allclose(tokens[1:2], bridge(features[1:2]), atol=1e-6)
        assert torch.equal(bridge(features, grid=(4, 8)), tokens)
        rows, cols = bridge.grid_for((12, 4))
        assert bridge(torch.randn(1, 48, 6), grid=(12, 4)).shape == (1, rows * cols, 16)
        assert not torch.allclose(bridge(features, grid=(8, 4)), torch.zeros(()))
        tokens.square().sum().backward()
        assert features.grad is not None and features.grad.abs().sum(-1).min() > 0
        assert all(parameter.grad is not None for parameter in bridge.parameters())
        meta = factory(in_width=6, out_width=16, grid=(4, 8)).to("meta")
        assert meta(torch.empty(3, 32, 6, device="meta")).shape == (3, *tokens.shape[1:])
        return bridge

    return check
