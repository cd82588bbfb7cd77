"""The mean of the small model's weights at the end of its run and after an earlier stage.

    python tools/average_small.py --run runs/small/run --out runs/small/model

After ``values`` the model copies values better and has forgotten some of what pages need; the mean of
its weights with those after ``pages`` does both (Wortsman et al., 2022, "Model soups", arXiv:2203.05482).
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from hdvl.checkpoints import load_folder, read_config, save_folder


def stage_weights(run: Path, stage: str) -> dict[str, Tensor]:
    """The model's tensors at the end of ``stage``."""
    (path,) = run.glob(f"*-{stage}/checkpoints/last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("vlm."): tensor for name, tensor in state.items()}


def mean(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Halfway between two sets of tensors; whole numbers must be the same in both."""
    found = dict[str, Tensor]()
    for name, tensor in one.items():
        if tensor.is_floating_point():
            found[name] = (tensor + other[name]) / 2
        elif tensor.equal(other[name]):
            found[name] = tensor
        else:
            raise ValueError(f"{name} must be the same after both stages, it has no mean")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--stage", default="pages", help="to take the mean with")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    vlm = load_folder(args.run / "model")
    vlm.load_state_dict(mean(stage_weights(args.run, args.stage), vlm.state_dict()))
    print(save_folder(vlm, args.out, read_config(args.run / "model")))


if __name__ == "__main__":
    main()
