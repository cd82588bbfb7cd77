"""Summaries of the benchmark of selected windows, and the choices that it compares."""

import random
from pathlib import Path
from typing import Any

import bench_select
import pytest
import torch

from hdvl.inference import Pipeline
from hdvl.protocols import Message
from tests.tiny_model import tiny_node, tiny_vlm

ROWS: list[dict[str, Any]] = [
    {"page": page, "way": way, "windows": count, "read": read, "right": right, "found": True,
     "visual_tokens": 100 * read, "cpu_seconds": 0.5}
    for page, way, count, read, right in (
        (0, "all", 0, 20, True), (1, "all", 0, 24, True),
        (0, "thumbnail", 4, 4, True), (1, "thumbnail", 4, 4, False),
        (0, "thumbnail", 16, 16, True), (0, "random", 4, 4, False),
    )
]  # fmt: skip


def test_a_row_of_the_table_is_the_mean_over_its_pages(tmp_path: Path) -> None:
    table = bench_select.summarise(ROWS)
    names = [(row["way"], row["windows"], row["pages"]) for row in table]
    assert names == [
        ("all", "22.0", 2), ("thumbnail", "4", 2), ("thumbnail", "16", 1), ("random", "4", 1),
    ]  # fmt: skip
    assert [row["right"] for row in table] == [1, 0.5, 1, 0]
    assert list(bench_select.lines(table))[2] == "| all | 22.0 | 2 | 100% | 100% | 2,200 | 0.50 |"
    bench_select.write(tmp_path / "table.csv", table)
    text = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert text[0].split(",") == list(bench_select.COLUMNS)
    assert text[2] == "thumbnail,4,2,0.5,1,400,0.5"
    assert (tmp_path / "table.png").stat().st_size > 1000


@pytest.mark.parametrize("way", ["all", "random", "oracle", "max_tiles"])
def test_each_way_reads_what_it_says(way: str) -> None:
    merger = {"_target_": "hdvl.mergers.OverlapBlend", "_partial_": True}
    pipe = Pipeline(model=tiny_vlm(tiny_node() | {"merger": merger}))
    image = torch.zeros(64, 96, 3, dtype=torch.uint8).numpy()
    messages = (Message("user", "Where?", (image,)),)
    box = (70, 40, 80, 50)
    sample = bench_select.sample_of(pipe, messages, way, 2, box, random.Random(0))
    (plan,), (whole,) = sample.plans, bench_select.encode_prompt(pipe.processor, messages).plans
    assert len(plan.windows) == (6 if way == "all" else 2)
    if way == "oracle":  # the window that holds the box, and the nearest other one
        assert plan.windows == tuple(whole.windows[index] for index in (4, 5))


def test_a_page_has_its_question_and_the_place_of_the_answer() -> None:
    document, question, box = bench_select.page_of(3, 20_260_000)
    (field,) = [one for one in document.fields if one.box == box]
    assert (question.text, question.answer) == (field.question, field.value)
