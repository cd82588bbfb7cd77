import torch
from torch import Tensor, nn

from hdvl.encoders.used_parameters import features_and_parameters, remove_unused


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.mask = nn.Parameter(torch.zeros(2))
        self.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.body(pixels.mean(dim=1)) + self.fixed
        self.head(features)
        return features


def test_unused_parameters_are_found_and_removed() -> None:
    model = Model()
    features, used = features_and_parameters(model, (3, 2, 2))
    assert features.is_meta and features.shape == (1, 2, 2)
    assert used == {"body.weight", "body.bias", "fixed"}
    assert model.training and not model.body.weight.is_meta
    remove_unused(model, used)
    assert [name for name, _ in model.named_parameters()] == ["fixed", "body.weight", "body.bias"]
    assert model(torch.ones(1, 3, 2, 2)).shape == (1, 2, 2)


def test_it_works_without_gradients() -> None:
    with torch.inference_mode():
        _, used = features_and_parameters(Model(), (3, 2, 2))
    assert "head.weight" not in used
