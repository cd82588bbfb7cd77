"""``hdvl plan``: the tables of a composition, and one error for parts that do not fit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hdvl.config import compose
from hdvl.plan import amount, run, table


def plan(*overrides: str) -> None:
    config = compose("survey=0", *overrides, config_name="plan")
    run(OmegaConf.to_container(config, resolve=False))


def test_everything_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    plan("encoder=tiny", "llm=tiny", "tuning=bridge_lora", "optimizer.groups.bridge.lr=1e-3")
    out = capsys.readouterr().out
    for pattern in (
        r"tiler +SlidingWindow +tiles of 224 x 224 px, at most \d+",
        r"encoder +TimmEncoder +a tile -> 7 x 7 = 49 tokens of width 48",
        r"bridge +MLP +a tile's 49 x 48 -> 7 x 7 = 49 tokens of width 64",
        r"llm +CausalLM +width 64, \d+ ids",
        r"1024 x 768 +\d+ +[\d,]+\n",
        r"encoder +frozen +206,592 +0\n",
        r"llm +lora +[\d,]+ +[\d,]+\n",
        r"bridge +2 +7,168 +0\.001 ",
        r"forward, encoder +[\d.]+ [MG]FLOP",
        r"activations +[\d.]+ [MG]B",
    ):
        assert re.search(pattern, out), pattern


def test_libraries_count_where_this_cpu_trains(capsys: pytest.CaptureFixture[str]) -> None:
    plan("trainer.accelerator=cpu", "images=[]")
    assert re.search(r"libraries +[\d.]+ [MG]B\n", capsys.readouterr().out)
    plan("trainer.accelerator=cpu", "images=[]", "gpus=2")
    assert "libraries" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_takes_the_memory_that_was_planned(tmp_path: Path) -> None:
    words = ["trainer.accelerator=cpu", "trainer.max_steps=2", "data.num_workers=0"]
    command = [sys.executable, "-m", "hdvl.plan", *words, "survey=16", "measure=false"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"memory, all +([\d.]+) ([MG])B", text)
    assert found is not None
    planned = float(found[1]) * {"M": 1e6, "G": 1e9}[found[2]]
    command = [sys.executable, "-m", "hdvl.train", *words, f"run_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert 1 / 1.5 < 1024 * usage.ru_maxrss / planned < 1.5


@pytest.mark.slow
def test_every_stage_has_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    plan("experiment=smoke")
    out = capsys.readouterr().out
    assert "stage 1 of 2: align" in out
    assert "stage 2 of 2: instruct" in out
    assert out.count("tiler     SlidingWindow") == 1
    assert re.search(r"learning rates: 60 steps, cosine", out)


@pytest.mark.slow
def test_open_clip_with_the_tiny_llm(capsys: pytest.CaptureFixture[str]) -> None:
    plan("encoder=open_clip", "llm=tiny")
    assert "14 x 14 = 196 tokens of width 768" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.groups.llm.min_lr_ratio=2"], "min_lr_ratio of llm must be in 0..1"),
        (
            ["trainer.max_steps=5", "optimizer.common.warmup_steps=5"],
            "must be below the total of 5",
        ),
        (
            ["tuning.llm=loar"],
            "tuning.llm must be one of frozen, full, lora, dora, qlora, got loar",
        ),
        (["tuning.merger=lora"], "tuning.merger=lora needs a linear layer"),
    ],
)
def test_wrong_numbers_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan("encoder=tiny", "llm=tiny", *overrides)


@pytest.mark.slow
def test_a_mismatch_is_one_line_and_exit_code_1(root: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hdvl.plan", "encoder=tiny", "tiler.tile_size=448"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(
        r"hdvl plan: tiler\.tile_size=448 must equal the encoder's tile_size=224; .*\n",
        result.stderr,
    )


def test_amounts() -> None:
    assert [amount(n, "B") for n in (0, 999, 1000, 1234567, 2.5e18)] == [
        *("0 B", "999 B", "1 kB", "1.23 MB", "2.5e+03 PB")
    ]


def test_table_aligns_its_columns() -> None:
    assert table([["a", "1"], ["bb", "22"]], right=(1,)) == "  a    1\n  bb  22"
