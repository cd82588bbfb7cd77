"""An encoder imports only its own library, because each takes seconds."""

import subprocess
import sys

import pytest

LIBRARIES = {"open_clip", "timm", "transformers", "torchvision", "lightning"}
CONFIG = "hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8"
# code: what it may import (libraries import each other: open_clip takes all the others)
CASES = {
    "from hdvl.encoders import ConvStem, TimmEncoder, OpenCLIPEncoder; ConvStem()": set(),
    f"from hdvl.encoders import TransformersEncoder as E; E(name='clip_vision_model', "
    f"mean=[0.5] * 3, std=[0.5] * 3, config=dict({CONFIG}))": {"transformers", "torchvision"},
    "from hdvl.encoders import TimmEncoder as E; E(name='vit_small_patch16_224', "
    "config=dict(embed_dim=8, num_heads=1, depth=1))": {"timm", "torchvision"},
    "from hdvl.encoders import OpenCLIPEncoder as E; E(name='ViT-B-16', "
    "config=dict(width=16, head_width=8, layers=1))": LIBRARIES - {"lightning"},
}


@pytest.mark.slow
@pytest.mark.parametrize("code", CASES)
def test_only_the_chosen_library(code: str) -> None:
    ask = f"import sys; {code}; print(*sorted({LIBRARIES!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= CASES[code]
