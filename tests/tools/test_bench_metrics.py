"""The benchmark of the metrics runs and reports scores."""

import sys

import bench_metrics
import pytest


def test_it_prints_a_line_for_each_metric(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_metrics", "--predictions", "40", "--captions", "5"])
    bench_metrics.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14].strip() for line in lines] == [
        "VQA accuracy",
        "M4C accuracy",
        "ANLS",
        "tokenizer",
    ]
    assert all("40 predictions" in line for line in lines[:3])
    assert "5 captions" in lines[3]
