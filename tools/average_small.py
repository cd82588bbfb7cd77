"""The mean of two sets of the small model's weights.

    python tools/average_small.py runs/small/run/model runs/small/run/*-pages/checkpoints/last.ckpt \\
        --out runs/small/mean

Training on small documents improves how the model copies values, and makes it worse on whole pages. The mean
of the weights before and after that training is good at both (Wortsman et al., 2022, "Model soups",
arXiv:2203.05482).
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from hdvl.checkpoints import load_folder, read_config, save_folder
from hdvl.training.frozen import LEFT_OUT


def weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, or of the model in a checkpoint of a run."""
    if path.is_dir():
        return load_folder(path).state_dict()
    checkpoint = torch.load(path, weights_only=True)
    if checkpoint.get(LEFT_OUT):
        raise SystemExit(f"{path} does not contain its run's frozen weights; give its model folder")
    state = checkpoint["state_dict"]
    return {name.removeprefix("vlm."): tensor for name, tensor in state.items()}


def mean(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of two sets of tensors. Tensors of integers must be equal in both."""
    found = dict[str, Tensor]()
    for name, tensor in one.items():
        if tensor.is_floating_point():
            found[name] = (tensor + other[name]) / 2
        elif tensor.equal(other[name]):
            found[name] = tensor
        else:
            raise ValueError(f"{name} must be the same in both, it has no mean")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("other", type=Path, help="another, or a checkpoint of a run")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    vlm = load_folder(args.model)
    vlm.load_state_dict(mean(vlm.state_dict(), weights(args.other)))
    print(save_folder(vlm, args.out, read_config(args.model)))


if __name__ == "__main__":
    main()
