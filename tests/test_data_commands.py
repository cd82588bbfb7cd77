"""``hdvl data lint`` and ``hdvl data bench`` as a user runs them."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hdvl.config import compose, resolve
from hdvl.data.lint import Finding, Report
from hdvl.data_bench import run as bench
from hdvl.data_lint import main, summary
from hdvl.data_lint import run as lint

SMALL = ("tiler.tile_size=32", "tiler.stride=32", "tiler.multiple_of=32", "encoder=conv_stem",
         "encoder.tile_size=32", "llm.tokenizer.vocab_size=320")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.jpg")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise."}]
        rows.append({"id": number, "image": f"{number}.jpg", "conversations": turns})
    (tmp_path / "5.jpg").unlink()
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def config(folder: Path, command: str, *overrides: str) -> Any:
    given = (f"data.train.path={folder / 'data.jsonl'}", f"data.train.image_folder={folder}")
    return resolve(compose("data=llava", *SMALL, *given, *overrides, config_name=command))


@pytest.mark.slow
def test_lint_writes_what_training_then_leaves_out(folder: Path) -> None:
    files = (f"report={folder / 'out/lint.json'}", f"quarantine={folder / 'out/q.json'}")
    composed = config(folder, "data_lint", *files)
    report, share = lint(composed)
    assert share == 1 / 12
    said = summary(report, composed, share)
    assert re.search(r"12 rows of .*data.jsonl\n +1 image: an image that cannot", said)
    assert "row 5 (id 5) of" in said and "8.33% to leave out; data.max_bad is 0.1%" in said
    written = json.loads((folder / "out/lint.json").read_text())
    assert [finding["row"] for finding in written["findings"]] == [5]
    again = config(folder, "data_bench", f"data.train.quarantine={folder / 'out/q.json'}")
    from hdvl.config import build

    assert len(build(again["data"]["train"])()) == 11


@pytest.mark.slow
def test_the_exit_code_says_whether_it_is_too_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.train.path={folder / 'data.jsonl'}", f"data.train.image_folder={folder}"]
    monkeypatch.chdir(folder)
    for extra, code in (("seed=0", 1), ("data.max_bad=0.1", 0), ("leave_out=[long]", 0)):
        argv = ["hdvl data lint", "data=llava", *SMALL, *words, extra]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == code, extra
    assert (folder / "quarantine.json").exists()
    assert "to leave out" in capsys.readouterr().out


def test_an_unknown_fault_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"leave_out must be among row, .* got \['blur'\]"):
        lint(config(folder, "data_lint", "leave_out=[row,blur]"))


@pytest.mark.slow
def test_bench_splits_the_time(folder: Path) -> None:
    (folder / "5.jpg").write_bytes((folder / "4.jpg").read_bytes())
    said = bench(config(folder, "data_bench", "count=4", "batches=2", "num_workers=1"))
    for stage in ("read", "decode", "tile", "tokenise", "collate", "all"):
        assert re.search(rf"^  {stage} +\d+\.\d\d ms", said, re.MULTILINE), said
    for kind in ("no worker", "1 processes", "1 threads"):
        assert re.search(rf"^  {kind} +\d+\.\d$", said, re.MULTILINE), said
    with pytest.raises(ValueError, match="count, batches and num_workers must be at least 1"):
        bench(config(folder, "data_bench", "count=0"))


def test_the_summary_says_what_to_do_only_if_there_are_faults() -> None:
    plain = {"report": "lint.json", "quarantine": "q.json", "data": {"max_bad": 0.001}}
    assert summary(Report({"a": 2}, (), ()), plain, 0.0).splitlines()[1:] == [
        "    0.00% to leave out; data.max_bad is 0.1%",
        "  written lint.json and, with the rows to leave out, q.json",
    ]
    cut = Finding("a", 0, "row 0 of a", (("image", "cut short"),))
    said = summary(Report({"a": 2}, (cut,), ()), plain, 0.5)
    assert said.endswith("in lint.json; leave them out with data.train.quarantine=q.json")
    lost = Finding("a", 0, "row 0 of a", (("image", "[Errno 2] No such file or directory: 'x'"),))
    said = summary(Report({"a": 1}, (lost,), ()), plain, 1.0)
    assert "correct data.train.image_folder" in said and "quarantine" not in said


def test_lint_refuses_a_missing_folder_of_images(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^data\.train\.image_folder must be .* no folder lost;"):
        lint(config(folder, "data_lint", "data.train.image_folder=lost"))
