"""Typical mistakes of users: each ends with exit code 1 and one line that says what to do.

No trace, no file written, and nothing trained or read before the mistake is found.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hdvl import cli

ROOT = Path(__file__).resolve().parent.parent
RECEIPT = ROOT / "hdvl" / "assets" / "receipt.png"

# What is wrong with the words themselves is found before Hydra composes anything.
WORDS = [
    ("train foo", r"'foo' must be given to a key, such as key=value"),
    ("train tiny", r"'tiny' must be given to a key, did you mean encoder=tiny or llm=tiny\?"),
    ("infer receipt.png", r"did you mean image=receipt.png\?"),
    ("infer folder", r"did you mean checkpoint=folder\?"),
    ("train --epochs=3", r"--epochs is no option; did you mean epochs=...\?"),
    ("train --resolv", r"--resolv is no option; did you mean --resolve, or resolv=...\?"),
    ("infer --image x", r"--image is no option; did you mean image=...\?"),
    ("train --cfg=jobb", r"--cfg must be one of job, hydra, all, got 'jobb'"),
    ("train --cfg", r"--cfg needs a value"),
    ("infer prompt=x model=", r"model must be one of .*smolvlm, .* got ''"),
    ("train encoder=null", r"encoder must be one of .* got 'null'"),
    (
        "train encoder=[tiny,timm]",
        r"encoder must be one of .*; --multirun runs one after the other",
    ),
    ("train encoder=tiny,timm", r"encoder must be one of .*; --multirun runs one after the other"),
    ("train ~encoder", r"~encoder would leave out a part that every model has"),
    ("train initialise=x", r"initialise is called init_from now"),
    ("train optimizer.shape=cosine", r"optimizer.shape is called optimizer.schedule now"),
]
QUICK = [
    ("train encodr=tiny", r"encodr is no key of hdvl train, did you mean encoder\?"),
    ("train +encodr=tiny", r"encodr is no key of hdvl train, did you mean encoder\?"),
    ("infer prompt=x +max_new_tokens=2", r"did you mean generation.max_new_tokens\?"),
    ("infer prompt=x image=nowhere.png", r"image must be a file, there is no nowhere.png"),
    ("infer prompt=x inputs=foldr", r"inputs must be a folder, .* no foldr, did you mean folder\?"),
    ("train data=llava data.train.path=note.txt", r"data.train.path .*, did you mean notes.txt\?"),
    ("train data.holdout=10%", r"data.holdout must be a number above 0 and below 1, .* got 10%"),
]
KEYS = [
    ("train max_steps=1", r"max_steps is no key of hdvl train, did you mean trainer.max_steps\?"),
    ("train ++encodr=tiny", r"encodr is no key of hdvl train, did you mean encoder\?"),
    ("train trainer.max_step=1", r"did you mean trainer.max_steps\?"),
    ("train bridge.out_width=3", r"bridge.out_width must not be given, hdvl sets in_width, out_width, grid"),
    ("plan +bridge.out_width=3", r"bridge.out_width must not be given, hdvl sets in_width"),
    (
        "train experiment=catvision_instruct stages.0.trainer.max_stps=3",
        r"stages.0.trainer.max_stps is no key .* did you mean stages.0.trainer.max_steps\?",
    ),
    (
        "train experiment=catvision_instruct stages.tuning.llm=frozen",
        r"stages.tuning.llm must name a stage by its number, did you mean stages.0.tuning.llm\?",
    ),
    ("train trainer.max_time=00:01", r"add it with \+trainer.max_time=VALUE"),
    ("train device=gpu", r"device is no key of hdvl train, did you mean trainer.accelerator"),
    ("train epochs=3", r"did you mean trainer.max_epochs\?"),
    ("train lr=1", r"did you mean optimizer.common.lr"),
    ("train +lr=1", r"did you mean optimizer.common.lr"),
    ("train +foo=1", r"foo is no key of hdvl train; hdvl train --help lists them"),
    ("train +tiler.tile_sise=3", r"tile_sise is not, did you mean tile_size"),
    ("train +optimizer.lr=3", r"optimizer.lr is no key of hdvl train, did you mean optimizer.common.lr"),
    ("train +optimizer.groups.bridge.lrr=3", r"did you mean optimizer.groups.bridge.lr"),
    ("train +optimizer.factory.fusd=true", r"fusd is not, did you mean fused\?"),
    ("train +callbacks.mine=3", r"callbacks.mine must name what it is built by"),
    ("train +tuning.encodr=full", r"did you mean tuning.encoder"),
    ("train +encoder=timm", r"encoder has a choice already; write encoder=... without \+"),
    ("train ~callbacks.audti", r"~callbacks.audti must be a key .* did you mean audit\?"),
    ("train ~foo", r"~foo must be a key of hdvl train"),
    ("train encoder=tinyy", r"encoder must be one of .* got tinyy, did you mean tiny\?"),
    ("train tuning=loar", r"tuning must be one of .* got loar, did you mean lora\?"),
    ("train experiment=smok", r"experiment must be one of .* did you mean smoke\?"),
    ("train callbacks=none", r"callbacks must be one of cached, default, got none"),
    ("train llm=pretrained", r"llm.path must be given, such as llm.path=Qwen"),
    ("train data=llava", r"data.train.path must be given"),
    ("train template=tokenizer", r"template.path is taken from llm.path, .* choose llm=pretrained"),
    ("train data=webdataset", r"data.train.shards must be given, such as data.train.shards='shards/"),
    ("train experiment=smoke stages.1.tuning.llm=loar", r"stages.1 .instruct.: tuning.llm must be"),
    ("train data=llava data.train.path=nowhere.json", r"nowhere.json"),
    ("train experiment=smoke model=small", r"model=small cannot be combined with experiment=smoke"),
    ("infer prompt=x max_new_tokens=2", r"did you mean generation.max_new_tokens\?"),
    ("infer prompt=x +generation.max_tokens=2", r"did you mean generation.max_new_tokens"),
    ("infer prompt=x data=llava", r"data is no group of hdvl infer, which takes .*encoder"),
    ("infer prompt=x +data=llava", r"data is no group of hdvl infer, which takes .*encoder"),
    ("infer prompt=x tiler=sqash", r"got sqash, did you mean squash\?"),
    ("infer question=x", r"question is no key of hdvl infer, did you mean prompt\?"),
    ("tile picture=x.png", r"picture is no key of hdvl tile, did you mean image\?"),
    ("convert form=x", r"form is no key of hdvl convert"),
    # wrong kinds
    ("train optimizer.common.lr=fast", r"optimizer.common.lr must be a number, got 'fast'"),
    ("train trainer.max_steps=many", r"trainer.max_steps must be a number, got 'many'"),
    ("train trainer.max_steps=1.5", r"trainer.max_steps must be a whole number, got 1.5"),
    ("train seed=x", r"seed must be a whole number from 0 to 4294967295, got 'x'"),
    ("train data.batch_size=two", r"data.batch_size must be a number, got 'two'"),
    ("train data.shuffle=3", r"data.shuffle must be true or false, got 3"),
    ("train bridge.depth=two", r"bridge.depth must be a number, got 'two'"),
    ("train bridge.hidden=wide", r"bridge.hidden must be a number, got 'wide'"),
    ("train encoder.config=3", r"encoder.config must be a mapping, got 3; set its keys"),
    ("train encoder.config.embed_dim=big", r"encoder.config.embed_dim must be a number"),
    ("train tuning.lora=3", r"tuning.lora must be a mapping, got 3; set its keys"),
    ("train stages=3", r"stages must be null or a list"),
    ("train template.system=[a]", r"template.system must be text"),
    ("plan images=big", r"images must be a list, got 'big'"),
    ("plan gpus=two", r"gpus must be a whole number of at least 1, got 'two'"),
    ("data bench batches=x", r"batches must be a whole number of at least 1, got 'x'"),
    ("infer prompt=x stream=maybe", r"stream must be true or false, got 'maybe'"),
    ("infer prompt=x generation.max_new_tokens=many", r"must be a whole number .*, got 'many'"),
    ("infer prompt=x generation=null", r"generation must be a mapping, got null; set its keys, such as gen"),
    ("tile image=receipt.png draw_size=x", r"draw_size must be a whole number of at least 1, got 'x'"),
    ("evaluate task=suite_reading limit=abc", r"limit must be a whole number .* null, got 'abc'"),
    ("evaluate task=suite_reading official_random_seed=abc", r"official_random_seed must be a whole number"),
    (
        "evaluate task=suite_reading task.suite_reading.read.pages=0",
        r"task.suite_reading.read.pages must be at least 1, got 0",
    ),
    (
        "evaluate task=[suite_reading,suite_counting] task.suite_reading.read.values={rotation:[abc]}",
        r"task.suite_reading.read.values: rotation must be a list of numbers, got 'abc'",
    ),
    (
        "evaluate task=[suite_reading,suite_counting] task.suite_reading.read.pages=abc",
        r"task.suite_reading.read.pages must be a number, got 'abc'",
    ),
    (
        "evaluate task=suite_reading outputs=notes.txt/a",
        r"outputs must be a folder, notes.txt in notes.txt/a is a file",
    ),
    (
        "score task=suite_reading predictions=notes.txt judge.settings=[]",
        r"judge.settings must be a mapping, .* got \[\]",
    ),
    (
        "score task=suite_reading predictions=notes.txt out=folder",
        r"out must be a file, folder is a folder",
    ),
    (
        "score task=suite_reading predictions=notes.txt out=notes.txt",
        r"out=notes.txt would overwrite the predictions",
    ),
    ("evaluate engine=null", r"engine must be a mapping, got null; set its keys, such as engine.max_slots"),
    ("chat engine=openai", r"engine must be a mapping, got openai; set its keys, such as engine.max_slots"),
    ("evaluate diff a b out=.", r"out must be a file, . is a folder"),
    ("tile image=receipt.png out=notes.txt/a.png", r"out must be a file, notes.txt in .* is a file"),
    ("serve checkpoint=[hdvl/small,nowhere]", r"checkpoint must be a folder, there is no nowhere"),
    # files, folders and devices
    ("infer", r"prompt must be given"),
    ("infer prompt=x image=folder", r"image must be a regular file, folder is a folder"),
    ("infer prompt=x image=[recept.png]", r"there is no recept.png, did you mean receipt.png\?"),
    ("infer prompt=x image=no/x.png", r"there is no no/x.png; the folder no does not exist"),
    ("infer prompt=x 'image=a, \"b\".png'", r'there is no a, "b".png; check the path'),
    ("tile 'image=a, \"b\".png'", r'there is no a, "b".png; check the path'),
    ("tile", r"image must be given"),
    ("tile image=folder", r"image must be a regular file, folder is a folder"),
    ("infer prompt=x device=gpu", r"device must be cpu, .* got gpu, did you mean cuda\?"),
    ("infer prompt=x dtype=half", r"dtype must be one of .* got half, did you mean float16\?"),
    ("demo device=gpu", r"device must be cpu"),
    ("infer prompt=x checkpoint=nowhere", r"checkpoint must be a folder, there is no nowhere"),
    ("infer prompt=x checkpoint=owner/name", r"hdvl downloads nothing"),
    ("infer prompt=x checkpoint=notes.txt", r"checkpoint must be a folder, notes.txt is a file"),
    ("infer prompt=x checkpoint=empty", r"checkpoint must hold a model, the folder empty is empty"),
    ("infer prompt=x checkpoint=folder", r"must hold a model .* the folder folder holds other.txt"),
    ("infer prompt=x checkpoint=hdvl/big", r"'hdvl/big' is not shipped .* hdvl/small"),
    ("export checkpoint=nowhere to=x", r"checkpoint must be a folder, there is no nowhere"),
    ("parity checkpoint=nowhere other=x", r"checkpoint must be a folder, there is no nowhere"),
    ("compare a", r"."),
]  # fmt: skip
# These import the class that is named, or torch.
IMPORTING = [
    ("infer prompt=x tiler.max_tiles=lots", r"tiler.max_tiles must be a number, got 'lots'"),
    ("infer prompt=x tiler.max_tile=3", r"no tiler.max_tile to override, did you mean max_tiles"),
    ("infer prompt=x tiler.longest_edge=3", r"no tiler.longest_edge to override; it takes grid"),
    ("train +trainer.max_stepz=1", r"max_stepz is not, did you mean max_steps"),
    ("train trainer.accelerator=gpu", r"No supported gpu backend .* Choose trainer.accelerator=cpu"),
    ("train trainer.accelerator=foo", r"invalid accelerator name"),
    ("train optimizer.factory._target_=torch.optim.Adamm", r"did you mean torch.optim.Adam"),
    ("train +callbacks.mine._target_=nowhere.Thing", r"nowhere.Thing does not exist"),
    ("train +encoder.config.embed_dmi=3", r"embed_dmi must be an argument .* did you mean embed_dim"),
    ("train encoder.name=vit_hugee", r"encoder.name must be a model of timm"),
    ("train llm.config.model_type=gpt9", r"model_type must be one of transformers, got 'gpt9'"),
    ("train +llm.config.hiden_size=3", r"no hiden_size, did you mean hidden_size"),
    ("plan llm.config={depth:3}", r"add them with \+llm.config=\{...\}"),
    ("train init_from=nowhere", r"nowhere"),
    ("train resume=empty", r"resume must be a run folder"),
    ("train bridge.depth=0", r"depth must be at least 1"),
    ("train optimizer.schedule=step", r"optimizer.schedule must be one of"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are typed in."""
    for name in ("folder", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "other.txt").write_text("no model")
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "receipt.png").write_bytes(RECEIPT.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(line: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, rest = cli.split_command(shlex.split(line))
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["hdvl", *cli.as_overrides(command, rest)])
    module = importlib.import_module(f"hdvl.{cli.module_of(command)}")
    with pytest.raises(SystemExit) as caught:
        module.main()
    said = caught.value.code
    assert isinstance(said, str) and "\n" not in said, said
    assert said.startswith(f"hdvl {command}: ")
    assert re.search(message, said), said
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow_beyond(6)
@pytest.mark.parametrize(("line", "message"), [*WORDS, *QUICK])
def test_mistakes(line: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(line, message, folder, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "message"), [*KEYS, *IMPORTING])
def test_more_mistakes(
    line: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(line, message, folder, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line, _ in QUICK])
def test_mistakes_end_a_process_before_torch_is_imported(line: str, folder: Path) -> None:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "hdvl.cli", *shlex.split(line)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    after = os.times()
    seconds = after.children_user + after.children_system
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert seconds - before.children_user - before.children_system < 2


@pytest.mark.slow
def test_the_trace_is_shown_on_request(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hdvl.cli", "train", "seed=x"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HYDRA_FULL_ERROR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1 and "Traceback" in done.stderr
    expected = "hdvl train: seed must be a whole number from 0 to 4294967295, got 'x'"
    assert done.stderr.splitlines()[-1] == expected


def test_there_are_at_least_sixty_kinds() -> None:
    lines = {line for line, _ in [*WORDS, *QUICK, *KEYS, *IMPORTING]}
    assert len(lines) >= 60


def test_errors_of_a_device_are_one_line() -> None:
    from hdvl.command import exit_with_message

    for error in (
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"),
        AssertionError("Torch not compiled with CUDA enabled"),
    ):
        with pytest.raises(SystemExit) as caught, exit_with_message("infer"):
            raise error
        said = str(caught.value.code)
        assert said.startswith("hdvl infer: ") and "\n" not in said
        assert ("lower tiler.max_tiles" in said) == ("memory" in said)
    with pytest.raises(RuntimeError, match="a bug"), exit_with_message("infer"):
        raise RuntimeError("a bug of hdvl keeps its trace")
