"""On a CUDA device the numbers are those of the CPU. Run them by ``pytest -m gpu tests/test_cuda.py``."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import hdvl
from hdvl.config import build
from hdvl.inference import Pipeline
from hdvl.loss import targets, token_weights
from hdvl.model import VLM
from hdvl.processor import Batch, Processor, collate, pack
from hdvl.protocols import Message
from tests.test_packed import samples
from tests.tiny_model import NODE, tiny_node, tiny_vlm

pytestmark = pytest.mark.gpu
RECEIPT = Path(hdvl.__file__).parent / "assets" / "receipt.png"


@pytest.fixture(autouse=True)
def exact() -> None:
    """Matrix products in float32 and not in TF32, and a device, without which nothing was tested."""
    assert torch.cuda.is_available(), "these tests need a CUDA device"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def tiny(groups: int = 2) -> VLM:
    """Heads of 64 numbers: the variable-length kernel takes no odd ones."""
    shape = {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": groups,
        "initializer_range": 0.02,
    }
    return tiny_vlm(tiny_node(llm={"config": {**NODE["llm"]["config"], **shape}}))


def loss_and_gradients(model: VLM, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    wanted = targets(batch.labels, batch.segments)
    weights = token_weights(wanted, batch.segments, "token")
    output = model(
        batch.input_ids,
        batch.pixels,
        batch.plans,
        None,
        batch.labels,
        segments=batch.segments,
        weights=weights / weights.sum(),
        all_logits=False,
    )
    model.zero_grad()
    output.loss.backward()
    grads = {
        n: p.grad.float().cpu().clone() for n, p in model.named_parameters() if p.grad is not None
    }
    return output.loss.detach().float().cpu(), grads


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_on_the_device_equals_padded_on_the_cpu(groups: int, dtype: torch.dtype) -> None:
    model = tiny(groups)
    several = samples(model)
    loss, gradients = loss_and_gradients(model, collate(several, pad_id=0))
    model = model.to("cuda", dtype)
    own, found = loss_and_gradients(model, pack(several).to("cuda"))
    rtol = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(own, loss, rtol=rtol, atol=rtol)
    assert found.keys() == gradients.keys()
    for name, expected in gradients.items():
        error = (found[name] - expected).norm() / expected.norm().clamp_min(1e-3)
        assert error < (1e-3 if dtype == torch.float32 else 0.1), (name, float(error))


def test_the_shipped_model_answers_as_on_the_cpu() -> None:
    questions = ["Where is the total?", "What is the total?"]
    pipes = [hdvl.load("hdvl/small", device=device) for device in ("cpu", "cuda")]
    for question in questions:
        cpu, cuda = (pipe.chat(question, images=[RECEIPT]).text for pipe in pipes)
        assert cuda == cpu
    turns = [[Message("user", question, (str(RECEIPT),))] for question in questions]
    together = [answer.text for answer in pipes[1].generate(turns)]
    assert together == [pipes[0].chat(question, images=[RECEIPT]).text for question in questions]


@pytest.mark.parametrize("compile", [False, True], ids=["graphs", "compiled"])
def test_batches_of_unequal_answers_are_those_of_the_cpu(compile: bool) -> None:
    turns = [
        [
            Message(
                "user",
                "Say it " * number,
                (Image.linear_gradient("L").resize(size).convert("RGB"),),
            )
        ]
        for number, size in enumerate([(64, 32), (90, 60), (32, 96)], 1)
    ]
    vlm = tiny_vlm()
    cpu = [answer.text for answer in Pipeline(model=vlm).generate(turns, max_new_tokens=40)]
    pipe = Pipeline(model=vlm.to("cuda"), engine={"compile": compile, "max_slots": 2})
    for _ in range(2):
        cuda = [answer.text for answer in pipe.generate(turns, max_new_tokens=40)]
        assert cuda == cpu


def test_logits_in_bfloat16_are_near_those_in_float32() -> None:
    turns = [Message("user", "Where is the total?", (str(RECEIPT),))]
    exact = hdvl.load("hdvl/small").logits(turns)
    half = hdvl.load("hdvl/small", device="cuda", dtype="bfloat16").logits(turns).cpu()
    error = (half - exact).norm() / exact.norm()
    assert error < 0.05, float(error)


@pytest.mark.parametrize("merger", ["concat", "spatial", "overlap_blend"])
def test_mergers_and_bridges_on_the_device(merger: str) -> None:
    stride = 96 if merger == "overlap_blend" else 224
    words = ["encoder=tiny", "llm=tiny", f"merger={merger}", "tiler=sliding_window"]
    words += [f"tiler.stride={stride}", "tiler.multiple_of=32", "tiler.thumbnail=null"]
    torch.manual_seed(0)
    vlm = build(hdvl.compose(*words).model).eval()
    batch = collate(
        [
            Processor.of(vlm)(
                [
                    Message("user", "a", (Image.effect_noise((448, 448), 80).convert("RGB"),)),
                    Message("assistant", "b"),
                ]
            )
        ],
        pad_id=0,
    )
    with torch.inference_mode():
        cpu = vlm(batch.input_ids, batch.pixels, batch.plans).logits
        moved = batch.to("cuda")
        cuda = vlm.to("cuda")(moved.input_ids, moved.pixels, moved.plans).logits.cpu()
    torch.testing.assert_close(cuda, cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.precision=bf16-mixed", "data.packing={tokens: 2048, tiles: 32}"],
        [
            "trainer.precision=bf16-true",
            "data.packing={tokens: 2048, tiles: 32}",
            "callbacks.compile.parts=[llm]",
        ],
        ["trainer.precision=32-true", "tuning=lora"],
    ],
    ids=["packed", "compiled", "lora"],
)
def test_training_on_the_device_saves_a_model_that_answers(
    words: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hdvl.train", "experiment=smoke", "trainer.accelerator=gpu"]
    command += [f"run_dir={run}", "stages=null", "trainer.max_steps=6", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = hdvl.load(run / "model", device="cuda").chat(
        "What?", images=[RECEIPT], max_new_tokens=4
    )
    assert answer.numbers.new_tokens
