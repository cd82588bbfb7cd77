"""Checks of all files in conf/: targets exist and accept the keys, and everything composes.

The lists of files are globs: a new YAML is tested because it is there.
"""

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.utils import get_object
from omegaconf import OmegaConf

from hdvl.config import CONF_DIR, compose

FILES = sorted(CONF_DIR.rglob("*.yaml"))
PRIMARY = sorted(CONF_DIR.glob("*.yaml"))
PART_GROUPS = ("tiler", "encoder", "bridge", "merger", "llm", "template")
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def name_of(path: Path) -> str:
    return path.relative_to(CONF_DIR).with_suffix("").as_posix()


@cache
def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def targets(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, node) of each node with a ``_target_`` under ``node``."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{where}[{index}]")


def check_binding(where: str, node: dict[str, Any]) -> None:
    """The target exists, and its signature accepts the keys beside it."""
    target = get_object(node["_target_"])
    signature = inspect.signature(target)
    bind = signature.bind_partial if node.get("_partial_") else signature.bind
    keys = {key: value for key, value in node.items() if key not in HYDRA_KEYS}
    try:
        bind(*node.get("_args_", []), **keys)
    except TypeError as error:
        pytest.fail(f"{where}: {node['_target_']}{signature}: {error}")


def choices(defaults: list[Any]) -> Iterator[tuple[str, str]]:
    """(group, choice) of each entry of a defaults list that names a file of conf/."""
    for entry in defaults:
        if not isinstance(entry, dict):
            continue
        for group, chosen in entry.items():
            group = group.removeprefix("override ").removeprefix("optional ").strip()
            group = group.split("@")[0].removeprefix("/")
            if chosen is None or group.startswith("hydra"):
                continue
            for name in chosen if isinstance(chosen, list) else [chosen]:
                yield group, name


def default_groups(path: Path) -> set[str]:
    """Groups that a primary file's defaults list has, with or without a choice."""
    entries = [entry for entry in read(path).get("defaults", []) if isinstance(entry, dict)]
    return {group.removeprefix("/").split("@")[0] for entry in entries for group in entry}


each_file = pytest.mark.parametrize("path", FILES, ids=name_of)
each_primary = pytest.mark.parametrize("path", PRIMARY, ids=name_of)


@pytest.mark.slow_beyond(71)
@each_file
def test_targets_accept_the_keys(path: Path) -> None:
    for where, node in targets(read(path), name_of(path)):
        check_binding(where, node)


@each_file
def test_defaults_name_files_that_exist(path: Path) -> None:
    missing = [
        f"{group}={choice}"
        for group, choice in choices(read(path).get("defaults", []))
        if not (CONF_DIR / group / f"{choice}.yaml").is_file()
    ]
    assert not missing, f"{name_of(path)} names {missing}"


@pytest.mark.parametrize("group", PART_GROUPS)
def test_parts_are_one_class_each(group: str) -> None:
    files = sorted((CONF_DIR / group).glob("*.yaml"))
    assert files, f"conf/{group} is empty"
    for path in files:
        content = read(path)
        assert "_target_" in content or "defaults" in content, f"{name_of(path)} has no _target_"
        if group in ("bridge", "merger") and "_target_" in content:
            assert content.get("_partial_") is True, f"{name_of(path)} needs _partial_: true"


@pytest.mark.parametrize("group", PART_GROUPS)
def test_parts_are_checked_against_their_protocols(group: str) -> None:
    """Each class is in typing_parts.py, where mypy compares it with the protocol."""
    typed = (Path(__file__).parent / "typing_parts.py").read_text(encoding="utf-8")
    named = [read(path).get("_target_") for path in sorted((CONF_DIR / group).glob("*.yaml"))]
    for target in filter(None, named):
        if target.startswith("hdvl."):
            package, part = target.split(".")[1:3]  # hdvl.llms.CausalLM.from_config is a CausalLM
            assert re.search(rf"\b{package}\.{part}\b", typed), f"{target}: not in typing_parts.py"


def check_composed(overrides: list[str], primary: str, *, resolve: bool) -> None:
    """It composes, and every target in the result accepts its keys."""
    config = OmegaConf.to_container(compose(*overrides, config_name=primary), resolve=resolve)
    for where, node in targets(config, f"{primary} {' '.join(overrides)}"):
        check_binding(where, node)


@pytest.mark.slow_beyond(4)
@each_primary
def test_primary_files_compose(path: Path) -> None:
    check_composed([], path.stem, resolve=True)


def presets() -> list[tuple[str, str]]:
    """(primary, group=choice) of each preset, under each command that has its group."""
    return [
        (primary.stem, f"{group}={path.stem}")
        for group in ("model", "experiment")
        for primary in PRIMARY
        if group in default_groups(primary)
        for path in sorted((CONF_DIR / group).glob("*.yaml"))
    ]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(("primary", "choice"), presets())
def test_presets_compose(primary: str, choice: str) -> None:
    check_composed([choice], primary, resolve=True)


# Classes that no two of the presets' parts share their keys with.
OTHERS = (
    ("tiler=squash", "encoder=tiny", "bridge=pooling", "merger=concat", "llm=tiny"),
    ("tiler=anyres", "encoder=timm", "bridge=mlp", "merger=spatial", "llm=tiny_llama"),
)


@pytest.mark.slow
@pytest.mark.parametrize("others", OTHERS, ids=",".join)
@pytest.mark.parametrize("path", sorted((CONF_DIR / "model").glob("*.yaml")), ids=name_of)
def test_any_part_of_a_preset_can_be_swapped(path: Path, others: tuple[str, ...]) -> None:
    """Settings of a part belong into the part's file, because those in a preset would remain after a swap."""
    check_composed([f"model={path.stem}", *others, "template=plain"], "train", resolve=True)


def rounds() -> list[list[str]]:
    """Overrides that together name every file of every group: as few compositions as may be.

    Not resolved, since a choice may need another: a template of the tokenizer needs an LLM with one.
    """
    folders = sorted(
        path
        for path in CONF_DIR.iterdir()
        if path.name in default_groups(CONF_DIR / "train.yaml") - {"model", "experiment"}
    )
    names = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folders}
    full = {group: files for group, files in names.items() if files}
    longest = max(map(len, full.values()))
    return [
        [f"{group}={files[index % len(files)]}" for group, files in full.items()]
        for index in range(longest)
    ]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("overrides", rounds(), ids=lambda overrides: ",".join(overrides))
def test_every_choice_composes(overrides: list[str]) -> None:
    check_composed(overrides, "train", resolve=False)


def test_every_folder_belongs_to_a_command() -> None:
    used = set().union(*map(default_groups, PRIMARY))
    folders = {path.name for path in CONF_DIR.iterdir() if path.is_dir() and any(path.iterdir())}
    assert folders <= used, f"no primary file names {sorted(folders - used)}"


@pytest.mark.slow_beyond(2, every=6)
@each_primary
def test_an_unknown_key_is_refused(path: Path) -> None:
    with pytest.raises(ConfigCompositionException, match="no_such_key"):
        compose("no_such_key=1", config_name=path.stem)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("group", PART_GROUPS)
def test_an_unknown_key_or_choice_of_a_part_is_refused(group: str) -> None:
    with pytest.raises(ConfigCompositionException, match="no_such_key"):
        compose(f"{group}.no_such_key=1")
    with pytest.raises(MissingConfigException, match="no_such_choice"):
        compose(f"{group}=no_such_choice")


@pytest.mark.slow_beyond(2)
@each_primary
def test_commands_write_no_logs_and_no_folders(path: Path) -> None:
    hydra = compose(config_name=path.stem, return_hydra=True).hydra
    assert hydra.run.dir == "." and hydra.output_subdir is None
    assert hydra.job_logging.root is None, "add `- override hydra/job_logging: none` to defaults"


@each_primary
def test_primary_files_open_with_their_command(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    command = path.stem.replace("_", " ")
    assert first.startswith(f"# hdvl {command}"), f"{path.name} opens with {first!r}"


@pytest.mark.parametrize("path", sorted((CONF_DIR / "experiment").glob("*.yaml")), ids=name_of)
def test_experiments_open_with_their_command(path: Path) -> None:
    head = path.read_text(encoding="utf-8").splitlines()[:2]
    said = next((line for line in head if line.startswith("# hdvl ")), "")
    assert f"experiment={path.stem}" in said, f"{name_of(path)}: no `# hdvl train experiment=...`"


@pytest.mark.parametrize("group", ["model", "experiment"])
def test_presets_are_global(group: str) -> None:
    for path in sorted((CONF_DIR / group).glob("*.yaml")):
        assert "# @package _global_" in path.read_text(encoding="utf-8"), name_of(path)


def test_a_wrong_key_is_caught() -> None:
    """Checks of this test itself: a surplus key, a missing key and a missing class fail."""
    message = {"_target_": "hdvl.protocols.Message", "role": "user"}
    check_binding("x", {**message, "text": "a"})
    with pytest.raises(pytest.fail.Exception, match="unexpected keyword argument 'txt'"):
        check_binding("x", {**message, "text": "a", "txt": "a"})
    with pytest.raises(pytest.fail.Exception, match="missing a required argument: 'text'"):
        check_binding("x", message)
    with pytest.raises(ImportError, match="Massage"):
        check_binding("x", {"_target_": "hdvl.protocols.Massage"})
