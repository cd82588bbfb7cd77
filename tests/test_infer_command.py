"""``hdvl infer``: the choice between checkpoint and new composition, options, and output."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from hdvl import chosen_model, infer
from hdvl.composition import PART_GROUPS, changes_of, keys_of
from hdvl.config import CONF_DIR, compose, resolve
from hdvl.inference import Pipeline, summary
from hdvl.inference.answers_file import AnswersFile
from tests.inference.saying import say
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
SMALL = ["encoder=conv_stem", "encoder.tile_size=64", "tiler.tile_size=64", "tiler.stride=64"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def config(*overrides: str) -> Any:
    return resolve(compose(*overrides, config_name="infer"))


def pipeline(*overrides: str) -> Pipeline:
    return chosen_model.pipeline_of(config(*overrides), overrides)


def test_parts_default_to_those_of_train() -> None:
    files = [
        yaml.safe_load((CONF_DIR / f"{command}.yaml").read_text()) for command in ("infer", "train")
    ]
    chosen = [
        {
            group: name
            for entry in file["defaults"]
            if isinstance(entry, dict)
            for group, name in entry.items()
            if group in (*PART_GROUPS, "model")
        }
        for file in files
    ]
    assert chosen[0] == chosen[1]
    assert files[0]["model"] == files[1]["model"]


@pytest.mark.slow
def test_a_checkpoint_answers_unless_parts_are_chosen() -> None:
    def composes(*overrides: str) -> bool:
        return chosen_model.is_composition(config(*overrides), keys_of(overrides))

    assert not composes()
    assert not composes("tiler=dynamic_ratio", "tiler.max_tiles=3", "model.encode_chunk=4")
    assert not composes("bridge.depth=3", "template=chatml")
    assert not composes("checkpoint=runs/docs", "encoder=timm")
    assert composes("encoder=timm") and composes("llm=tiny") and composes("bridge=mlp")
    assert composes("model=base")
    assert composes("checkpoint=null")
    with pytest.raises(
        ValueError, match=r"model= composes a new model, but checkpoint=runs/docs is"
    ):
        composes("checkpoint=runs/docs", "model=base")


def test_changes_on_a_checkpoint() -> None:
    overrides = ["tiler=squash", "tiler.tile_size=64", "bridge.depth=3", "model.encode_chunk=4"]
    changes = changes_of(config(*overrides), keys_of(overrides))
    assert changes["tiler"]["_target_"] == "hdvl.tilers.Squash"
    assert changes["tiler"]["tile_size"] == 64
    assert changes["bridge"] == {"depth": 3}
    assert changes["encode_chunk"] == 4
    assert set(changes) == {"tiler", "bridge", "encode_chunk"}
    assert changes_of(config("seed=1"), ["seed"]) == {}


@pytest.mark.slow
def test_the_checkpoint_is_changed(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = pipeline(f"checkpoint={tiny_folder}", "tiler.max_tiles=2", "model.encode_chunk=1")
    assert pipe.tiler.max_tiles == 2 and pipe.model.encode_chunk == 1
    assert pipe.tiler.tile_size == 32  # its own, not that of conf/tiler
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match=r"weights must fit the model"):
        pipeline(f"checkpoint={tiny_folder}", "bridge.depth=2")


@pytest.mark.slow
def test_a_chosen_tiler_follows_the_checkpoints_encoder(tiny_folder: Path, image: Path) -> None:
    pipe = pipeline(f"checkpoint={tiny_folder}", "tiler=sliding_window", "merger=concat")
    # Six sevenths of 32 are 27; the encoder's patches have 8 pixels, and the stride is a multiple of these.
    assert (pipe.tiler.tile_size, pipe.tiler.stride, pipe.tiler.max_tiles) == (32, 24, 64)
    assert pipe.chat("What?", images=[image], max_new_tokens=2).numbers.tiles == 7
    pipe = pipeline(f"checkpoint={tiny_folder}", "tiler=dynamic_ratio", "tiler.max_tiles=3")
    assert (pipe.tiler.tile_size, pipe.tiler.max_tiles) == (32, 3)
    with pytest.raises(ValueError, match=r"tiler.tile_size=64 must equal the encoder's tile_size"):
        pipeline(f"checkpoint={tiny_folder}", "tiler=squash", "tiler.tile_size=64")


def test_random_weights_are_announced(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [*SMALL, f"image={image}", "prompt=What?", "generation.max_new_tokens=3"]
    texts = []
    for _ in range(2):
        pipe = pipeline(*overrides)
        assert "RANDOM WEIGHTS" in capsys.readouterr().err
        texts.append(infer.generate_answer(pipe, config(*overrides)).text)
    assert texts[0] == texts[1]  # seed


def test_parts_that_do_not_fit_are_not_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"tile_size"):
        pipeline("tiler=sliding_window", "encoder=tiny", "tiler.tile_size=100")
    assert "RANDOM WEIGHTS" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_seed_is_that_of_the_sampled_answer(tiny_folder: Path) -> None:
    common = [f"checkpoint={tiny_folder}", "prompt=What?", "generation.max_new_tokens=8"]
    pipe = pipeline(*common)

    def said(*options: str) -> str:
        return infer.generate_answer(pipe, config(*common, *options)).text

    sampled = ["generation.do_sample=true", "generation.temperature=3"]
    first = said(*sampled, "seed=7")
    assert said(*sampled, "seed=7", "stream=true") == said(*sampled[1:], "seed=7") == first
    assert first != said() == said("seed=7", "generation.temperature=0")
    assert len({said(*sampled, f"seed={seed}") for seed in range(4)}) > 1


@pytest.mark.slow
def test_stop_strings_of_the_command_line(tiny_folder: Path) -> None:
    common = [f"checkpoint={tiny_folder}", "prompt=What?"]
    pipe = pipeline(*common)
    for stop, text in (("[lives]", "A cat has 9 "), ("9 lives", "A cat has "), ("[]", None)):
        say(pipe, "A cat has 9 lives")
        found = infer.generate_answer(pipe, config(*common, f"generation.stop={stop}")).text
        assert found == (text or "A cat has 9 lives")


def test_what_is_printed_and_drawn(
    tiny_folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"checkpoint={tiny_folder}", f"image={image}", "prompt=Where?"]
    pipe = pipeline(*overrides)
    text = "<ref>cup</ref><box>(100,250),(500,750)</box>"
    say(pipe, text)
    for stream, printed in (("false", "cup (7, 10, 35, 30)"), ("true", text)):
        infer.generate_answer(pipe, config(*overrides, f"stream={stream}"))
        assert capsys.readouterr().out == printed + "\n"
    say(pipe, f"{text}<box>(1,2)</box>")
    answer = infer.generate_answer(pipe, config(*overrides))
    assert capsys.readouterr().out == answer.text + "\n"
    lines = summary.report(answer).splitlines()
    assert lines[1] == "box      image 1: cup (7, 10, 35, 30)"
    assert lines[2] == "no box   <box>(1,2)</box>"
    assert lines[3] == "image  1: 70x40 px, 7 tiles of 32 px (2 x 3 + thumbnail)"
    assert lines[4].startswith("numbers  7 tiles, ") and " text tokens read, " in lines[4]
    (drawn,) = summary.write_drawings(answer, str(tmp_path / "new" / "out.png"))
    with Image.open(drawn) as opened:
        assert opened.size == (70, 40)
    two = config(*overrides[:1], f"image=[{image},{image}]", "prompt=Where?")
    names = summary.write_drawings(infer.generate_answer(pipe, two), str(tmp_path / "out.png"))
    assert [name.name for name in names] == ["out-1.png", "out-2.png"]
    none = infer.generate_answer(pipe, config(*overrides[:1], "prompt=Hello"))
    with pytest.raises(ValueError, match=r"out=x.png needs an image to draw on; give image=FILE"):
        summary.write_drawings(none, "x.png")
    with pytest.raises(ValueError, match=r"out must end as images do, .* got x\.doc"):
        summary.write_drawings(answer, "x.doc")


def test_a_heat_map_is_written_for_each_image(
    tiny_folder: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"checkpoint={tiny_folder}", f"image=[{image},{image}]", "prompt=Where?"]
    cfg = config(*overrides, f"attention={tmp_path / 'heat.png'}")
    pipe = pipeline(*overrides)
    say(pipe, "here")
    infer.draw_attention(pipe, infer.generate_answer(pipe, cfg), cfg)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(":")[0] for line in lines[:2]] == ["attention image 1", "attention image 2"]
    assert "% of all weights, most of them (" in lines[0] and lines[2].endswith("heat-1.png")
    with Image.open(tmp_path / "heat-2.png") as opened:
        assert opened.size == (70, 40)
    with pytest.raises(ValueError, match=r"attention is an option for a single question"):
        infer.run_many(config("inputs=x.png", "attention=y.png"), [])
    with pytest.raises(ValueError, match="attention shows what an answer attends to in all tiles"):
        words = ("image=x.png", "prompt=Where?", "attention=y.png", "select=thumbnail")
        infer.run(config(*words), words)


def hdvl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hdvl.infer", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CONF_DIR.parent)},
    )


@pytest.mark.slow
def test_on_the_command_line(tiny_folder: Path, image: Path, tmp_path: Path) -> None:
    common = [f"image={image}", "generation.max_new_tokens=4"]
    done = hdvl(
        *common,
        "prompt=图中, what?",
        f"checkpoint={tiny_folder}",
        "out=o.png",
        "stream=true",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "numbers  7 tiles" in done.stdout and "RANDOM" not in done.stderr
    assert (tmp_path / "o.png").is_file()
    done = hdvl(*common, "prompt=Describe.", *SMALL, "bridge=resampler", "llm=tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "RANDOM WEIGHTS" in done.stderr and "numbers" in done.stdout
    done = hdvl("prompt=x", f"image={tmp_path / 'no.png'}", *SMALL, cwd=tmp_path)
    assert done.returncode == 1 and "no.png" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_help_and_config_import_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, runpy; sys.argv[1:] = {}\n"
        "try: runpy.run_module('hdvl.infer', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    for arguments in (["--help"], ["--cfg", "job"]):
        done = subprocess.run(
            [sys.executable, "-c", program.format(arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(CONF_DIR.parent)},
        )
        assert done.returncode == 0, done.stderr
        assert "checkpoint" in done.stdout


def test_no_prompt() -> None:
    with pytest.raises(ValueError, match="prompt must be given"):
        infer.run({"prompt": None, "inputs": None}, [])


@pytest.mark.slow
def test_a_seed_gives_one_answer(tiny_folder: Path, image: Path) -> None:
    options = ["generation.do_sample=true", "generation.max_new_tokens=12", "seed=7"]
    words = [f"checkpoint={tiny_folder}", f"image={image}", "prompt=What?", *options]
    pipe = pipeline(*words)
    texts = [infer.generate_answer(pipe, config(*words)).text for _ in range(2)]
    assert texts[0] == texts[1]
    other = infer.generate_answer(pipe, config(*words, "seed=8")).text
    assert other != texts[0]


def many(folder: Path, outputs: Path, *words: str) -> list[str]:
    return [
        *(f"checkpoint={folder}", f"inputs={outputs.parent / 'scans'}", f"outputs={outputs}"),
        *("prompt=What is it?", "generation.max_new_tokens=4", *words),
    ]


@pytest.fixture
def scans(image: Path, tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    for number in range(5):
        with Image.open(image) as opened:
            opened.resize((40 + 20 * number, 40)).save(tmp_path / "scans" / f"{number}.png")
    (tmp_path / "scans" / "2.png").write_text("broken")
    return tmp_path / "scans"


@pytest.mark.slow
def test_many_questions_go_on_after_an_interruption(
    tiny_folder: Path, scans: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    outputs = scans.parent / "answers.jsonl"
    words = many(tiny_folder, outputs, "engine.max_slots=2", "max_bad_rows=1")
    append, written = AnswersFile.append, list[int]()

    def interrupted(self: AnswersFile, number: int, row: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        append(self, number, row)
        written.append(number)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AnswersFile, "append", interrupted)
        infer.run(config(*words), words)
    assert written == [0, 1, 2] and not outputs.exists()
    infer.run(config(*words), words)
    assert "2 of 5 rows are answered already" in capsys.readouterr().err
    rows = [json.loads(line) for line in outputs.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(5))
    assert [Path(row["images"][0]).name for row in rows] == [f"{n}.png" for n in range(5)]
    assert "2.png is not an image" in rows[2]["error"]
    pipe = pipeline(*words[:1])
    for row in (rows[0], rows[1], rows[4]):
        alone = pipe.chat("What is it?", row["images"], max_new_tokens=4)
        assert row["answer"] == alone.text and row["numbers"]["tiles"] == alone.numbers.tiles
    words[-1] = "max_bad_rows=0"
    with pytest.raises(ValueError, match=r"1 of 5 rows could not be asked, .* the first: .*2\.png"):
        infer.run(config(*words), words)
    with Image.open(scans / "1.png") as opened:
        opened.save(scans / "2.png")
    infer.run(config(*words), words)
    assert "0 of them bad" in capsys.readouterr().out
    assert "error" not in outputs.read_text()
    with pytest.raises(ValueError, match=r"begun with other settings \(model.tiler.max_tiles was"):
        infer.run(config(*words, "tiler.max_tiles=2"), [*words, "tiler.max_tiles=2"])


@pytest.mark.slow
def test_what_many_questions_need(tiny_folder: Path, scans: Path) -> None:
    words = many(tiny_folder, scans.parent / "answers.jsonl")
    for word, message in (
        ("image=a.png", "image is an option for a single question"),
        ("out=b.png", "out is an option for a single question"),
        ("stream=true", "stream is an option for a single question"),
        ("outputs=null", "outputs must be given with inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            infer.run(config(*words, word), [*words, word])


@pytest.mark.slow
def test_many_questions_killed_on_the_command_line(tiny_folder: Path, scans: Path) -> None:
    outputs = scans.parent / "answers.jsonl"
    for number in range(40):
        with Image.open(scans / "1.png") as opened:
            opened.save(scans / f"more-{number}.png")
    words = many(tiny_folder, outputs, "engine.max_slots=1", "generation.max_new_tokens=64")
    process = subprocess.Popen(
        [sys.executable, "-m", "hdvl.infer", *words],
        stderr=subprocess.DEVNULL,
        cwd=scans.parent,
        env={**os.environ, "PYTHONPATH": str(CONF_DIR.parent)},
    )
    part = outputs.with_name("answers.jsonl.part")
    while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") > 3):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
    done = hdvl(*words, cwd=scans.parent)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "rows are answered already" in done.stderr
    assert "hdvl infer: 1 of 45 rows could not be asked" in done.stderr
    rows = [json.loads(line) for line in outputs.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(45))
    assert sum("error" in row for row in rows) == 1


def test_collections_wait_until_the_model_is_there() -> None:
    with chosen_model.collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    gc.disable()
    try:
        with chosen_model.collector_paused():
            pass
        assert not gc.isenabled(), "a caller's choice stays"
    finally:
        gc.enable()
