"""Compiled parts equal uncompiled ones, with one compilation per bucket."""

from pathlib import Path

import pytest
import torch

from hdvl.callbacks.compiling import Compile
from hdvl.checkpoints import load_folder
from hdvl.processor import pack
from hdvl.training.run import run
from hdvl.training.step_loss import batch_loss
from tests.callbacks.fakes import fake_module
from tests.tiny_model import NODE, tiny_node, tiny_vlm
from tests.training.compiled import BATCHES, TRAINER, check_compiled
from tests.training.layouts import samples
from tests.training.runs import Feeder, free_ports, losses, mixed, rank_main


@pytest.mark.slow
@pytest.mark.parametrize("kind", BATCHES)
def test_one_compilation_a_bucket(kind: str) -> None:
    """Runs in a separate process, because the shape checks of the tests cannot be compiled."""
    torch.multiprocessing.spawn(check_compiled, (kind, "aot_eager"), nprocs=1)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"callbacks.compile.parts must be of encoder, llm, got bridge"
    ):
        Compile(parts=["bridge"])
    with pytest.raises(ValueError, match=r"callbacks.compile.tiles must rise from at least 1"):
        Compile(tiles=[4, 2])


def test_packed_dropout_is_refused() -> None:
    vlm = tiny_vlm(tiny_node(llm={"config": {**NODE["llm"]["config"], "attention_dropout": 0.1}}))
    limit = torch._dynamo.config.recompile_limit
    compiling, module = Compile(parts=["llm"]), fake_module(vlm=vlm.train())
    compiling.on_fit_start(TRAINER, module)
    assert torch._dynamo.config.recompile_limit > limit
    refused = r"parts must not name llm with packing and attention_dro"
    with pytest.raises(ValueError, match=refused) as raised:
        batch_loss(vlm, pack(samples(vlm)[:2]))
    compiling.on_exception(TRAINER, module, raised.value)
    assert torch._dynamo.config.recompile_limit == limit
    assert "forward" not in vars(vlm.llm)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
def test_two_ranks_compile_what_one_does_not(tmp_path: Path) -> None:
    """Blocks whose weights are gathered for each call (FSDP2), and a model that DDP holds."""
    still = [
        "llm.config.num_hidden_layers=2",
        "llm.config.attention_dropout=0.0",
        "tuning.lora.common.dropout=0",
        "data.packing={tokens: 160, tiles: 6, window: 6}",
    ]
    compiled = [
        "callbacks.compile._target_=tests.training.compiled.Strict",
        "callbacks.compile.parts=[encoder,llm]",
        "callbacks.compile.tokens=[200]",
        "callbacks.compile.backend=aot_eager",
        "callbacks.recompute.parts=[llm]",
        "trainer.devices=2",
        "trainer.accumulate_grad_batches=1",
    ]
    run(mixed(tmp_path / "alone", *still), Feeder())
    names = ("fsdp2", "ddp")
    jobs = [
        ("run", (mixed(tmp_path / name, *still, *compiled, f"trainer={name}"),)) for name in names
    ]
    torch.multiprocessing.spawn(rank_main, args=(free_ports(2), jobs), nprocs=2)
    expected = load_folder(tmp_path / "alone" / "model").state_dict()
    for name in names:
        here, there = (losses(tmp_path / folder) for folder in (name, "alone"))
        torch.testing.assert_close(here, there, rtol=0, atol=1e-5)
        weights = load_folder(tmp_path / name / "model").state_dict()
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-4, msg=f"{name} {key}")
