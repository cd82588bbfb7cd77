"""Help, lists, documentation and completion agree with the files of conf/, without importing parts."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import hdvl
from hdvl import catalogue, cli, completion, show
from hdvl import list as listing
from hdvl.config import CONF_DIR, compose, to_plain
from hdvl.help import OFTEN_SET, UNUSED, WIDTH, help_text, often
from hdvl.plain import dotted_keys

ROOT = Path(__file__).resolve().parent.parent
PRIMARY = sorted(path.stem for path in CONF_DIR.glob("*.yaml"))
COMMANDS = list(cli.COMMANDS)


@pytest.mark.parametrize("name", PRIMARY)
def test_help_has_purpose_examples_keys_and_groups(name: str) -> None:
    text, command = help_text(name), name.replace("_", " ")
    assert text.startswith(f"hdvl {command}    ")
    examples = re.findall(rf"^  hdvl {command}(?: |$).*", text, re.MULTILINE)
    assert len(examples) >= 2
    found = catalogue.primary(name)
    for group in found.groups:
        assert (f"\n  {group}=\n" in text) == (group not in UNUSED.get(name, ()))
    for entry in catalogue.settable(found.entries):
        assert entry.comment, f"conf/{name}.yaml: {entry.key} needs a comment"
        assert f"  {entry.key}={entry.value}" in text
    keys = [
        line for line in text.splitlines() if not line.startswith("  hdvl") and "={" not in line
    ]
    assert max(map(len, keys)) <= WIDTH + 20


def test_keys_that_are_set_most_often_are_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, choices in OFTEN_SET.items():
        assert [entry.key for entry in often(name)] == [
            f"{choice.partition('=')[0]}.{key}" for choice, *keys in choices for key in keys
        ]
        assert all(entry.comment or entry.key.endswith(("folder", "size")) for entry in often(name))
    assert "  data.holdout=null           fraction of the rows to validate on" in help_text("train")
    monkeypatch.setenv("COLUMNS", "80")
    keys = re.split(r"\nkeys of groups|\ngroups", help_text("train"))[1].splitlines()[1:]
    assert max(map(len, keys)) <= 80


@pytest.mark.parametrize("name", PRIMARY)
def test_examples_of_the_help_use_keys_that_exist(name: str) -> None:
    found = catalogue.primary(name)
    known = {entry.key for entry in found.entries} | set(found.groups)
    for line in re.findall(r"^  (hdvl .*)", help_text(name), re.MULTILINE):
        words = shlex.split(line)[1 + len(name.split("_")) :]
        for key, value in (word.split("=", 1) for word in words if "=" in word):
            assert key in known or key.partition(".")[0] in found.groups, f"{name}: {key}"
            if key in found.groups:
                for choice in value.strip("[]").split(","):
                    assert choice in catalogue.choices(key), f"{name}: {key}={value}"


@pytest.mark.parametrize("group", catalogue.groups())
def test_every_choice_is_described(group: str) -> None:
    for choice, text in catalogue.choices(group).items():
        assert len(text) > 10, f"conf/{group}/{choice}.yaml must open with a comment"
    assert listing.text([group]).startswith(f"  {group}=\n")


def test_keys_of_the_text_are_those_of_the_config() -> None:
    """The keys read from the text of the files equal those that Hydra composes."""
    for group, choice in (("encoder", "smolvlm2"), ("tiler", "llava_next"), ("merger", "smolvlm")):
        found = {entry.key for entry in catalogue.inherited(group, choice)}
        composed = [
            f"{group}.{key}" for key in dotted_keys(to_plain(compose(f"{group}={choice}")[group]))
        ]
        assert found == {key for key in composed if not key.rpartition(".")[2].isdigit()}
    found = {entry.key for entry in catalogue.primary("doctor").entries}
    assert found == set(dotted_keys(to_plain(compose(config_name="doctor"))))


def test_lists() -> None:
    assert re.search(r"^encoder +\d+ choices: .*clip_l_336", listing.text([]), re.MULTILINE)
    with pytest.raises(ValueError, match=r"'encodr' is no config group, did you mean encoder\?"):
        listing.text(["encodr"])


def test_show_documents_a_part() -> None:
    text = show.text(["merger=spatial"])
    assert text.startswith("merger=spatial\nThe tiles are joined to one image")
    assert "merger.newline=true" in text
    assert "hdvl.mergers.Spatial" in text and re.search(
        r"^  newline +bool = True", text, re.MULTILINE
    )
    assert "tiler=smolvlm" in show.text(["model=smolvlm"])
    assert "tile_size=336" in show.text(["tiler=llava_next"])
    assert "data.train.path=???" in show.text(["data=llava"])
    for word, message in (
        ("resampler", r"'resampler' is no config group, did you mean bridge=resampler\?"),
        ("encodr=timm", r"'encodr' is no config group, did you mean encoder"),
        ("encoder=timmm", r"encoder must be one of .* did you mean timm"),
        ("encoder", r"a choice of encoder must be given, .*hdvl list encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            show.text([word])


def test_show_leaves_out_formulas() -> None:
    from torch.optim import AdamW

    shown = show.documentation("torch.optim.AdamW")
    assert "\\begin{aligned}" in (AdamW.__doc__ or "")
    assert "math::" not in shown and "aligned" not in shown
    assert "Implements AdamW" in shown and "weight_decay" in shown


def test_shown_keys_can_be_typed() -> None:
    task = show.text(["task=docvqa"])
    assert "  task.docvqa.protocol=official" in task and "task.docvqa.published" not in task
    suite = show.text(["task=suite"])
    for name in ("reading", "locating", "counting", "comparing"):
        assert f"  task.suite_{name}.read.task={name}" in suite
    stages = show.text(["experiment=smoke"])
    assert "stages.0.name=align" in stages and "stages.1.name=instruct" in stages
    assert "stages.tuning" not in stages
    aligned = "rows:\n- a: 1\n  b: {c: 2}\n- a: 3\nother: 4\n"
    for text in (aligned, aligned.replace("- a", "  - a").replace("  b", "    b")):
        keys = [entry.key for entry in catalogue.entries(text)]
        assert keys == ["rows", "rows.0.a", "rows.0.b", "rows.1.a", "other"]


def test_parts_of_a_folder_of_the_user_are_listed_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bridge").mkdir()
    (tmp_path / "bridge" / "mine.yaml").write_text("# My bridge.\ndefaults: [mlp]\nwidth: 3\n")
    for module, words, expected in (
        (show, [f"--config-dir={tmp_path}", "bridge=mine"], ("bridge.width=3", "hdvl.bridges.MLP")),
        (listing, ["bridge", "--config-dir", str(tmp_path)], ("mine", "My bridge.", "resampler")),
    ):
        monkeypatch.setattr(sys, "argv", ["hdvl", *words])
        module.main()
        said = capsys.readouterr().out
        assert all(text in said for text in expected)
    with pytest.raises(
        ValueError, match=r"no module my_bridges; name the folder of its file in PYTHON"
    ):
        show.documentation("my_bridges.Mine")
    for words, message in (
        (["--config-dir", "nowhere"], r"must be an existing folder, got 'nowhere'"),
        (["--cfg", "job"], r"--cfg is no option of hdvl show"),
    ):
        with pytest.raises(ValueError, match=message):
            catalogue.with_own_folders(words, "show")


@pytest.mark.slow
@pytest.mark.parametrize("group", catalogue.groups())
def test_show_documents_every_choice(group: str) -> None:
    for choice in catalogue.choices(group):
        assert f"{group}={choice}" in show.text([f"{group}={choice}"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["data", ""], ["lint", "bench"]),
        (["train", "enc"], ["encoder="]),
        (["train", "encoder=ti"], ["encoder=timm", "encoder=tiny"]),
        (["train", "encoder=timm", "encoder.wei"], ["encoder.weights="]),
        (["train", "encoder=conv_stem", "encoder.st"], ["encoder.stem_width=", "encoder.stem_depth="]),
        (["train", "see"], ["seed="]),
        (["infer", "generation.top"], ["generation.top_p=", "generation.top_k="]),
        (["infer", "gene"], ["generation."]),
        (["infer", "stream="], ["stream=true", "stream=false"]),
        (["infer", "image=fo"], ["image=folder/"]),
        (["infer", "image=folder/"], ["image=folder/a.png"]),
        (["compare", "fo"], ["folder/"]),
        (["show", "merger=sp"], ["merger=spatial"]),
        (["list", "enc"], ["encoder"]),
        (["completion", "z"], ["zsh"]),
        (["train", "--mul"], ["--multirun"]),
        (["nonsense", ""], []),
    ],
)  # fmt: skip
def test_completion(
    words: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").touch()
    assert completion.candidates(words, COMMANDS) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["completion candidates train encoder=", "list encoder", "train --help", "infer --help"]
)
def test_completion_is_fast(line: str) -> None:
    """Less than one CPU second, without torch; the minimum of three runs, since the machine may be busy."""
    code = (
        f"import sys; sys.argv = ['hdvl', *{line.split()!r}]\n"
        "from hdvl.cli import main; main()\n"
        "assert not {'torch', 'hydra', 'omegaconf', 'numpy', 'lightning'} & set(sys.modules)"
    )
    spent = []
    for _ in range(3):
        before = os.times()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        after = os.times()
        spent.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    assert min(spent) < 1, spent


def test_scripts_of_shells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for shell, word in (("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete -c hdvl")):
        monkeypatch.setattr(sys, "argv", ["hdvl", shell])
        completion.main()
        assert word in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["hdvl", "tcsh"])
    with pytest.raises(
        SystemExit, match=r"hdvl completion: a shell must be given, one of bash, zsh"
    ):
        completion.main()


def test_dir_names_the_public_functions() -> None:
    assert dir(hdvl) == ["__version__", *sorted(hdvl.__all__)]


def test_choices_in_folders_of_a_group_are_listed_and_shown() -> None:
    assert "study/tiles" in catalogue.choices("experiment")
    text = show.text(["experiment=study/tiles"])
    assert text.startswith("experiment=study/tiles\n") and "parts\n" in text
