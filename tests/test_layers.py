"""Checks of import directions, of imports of heavy libraries, and of the sizes of files.

Everything is read from the syntax trees of the files that exist, so a new file is covered at once.
"""

import ast
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hdvl"

# A file may import from the lines above its own, and from its own folder.
LAYERS = [
    {
        "allowed",
        "appended",
        "geometry",
        "config",
        "extras",
        "overrides",
        "files",
        "inputs",
        "plain",
        "compat",
        "version",
        "sequences",
    },  # geometry: the part of the protocols that needs no torch
    {"keys", "catalogue"},
    {"help"},
    {"conversation", "html"},  # conversation: likewise, about text
    {"drawing"},
    {"protocols"},
    {
        "gguf",
        "images",
        "loss",
        "positions",
        "precision",
        "tables",
        "weights",
        "views",
    },  # helpers of the parts and of the model
    {"tilers", "encoders", "bridges", "mergers", "llms", "templates"},
    {"probe", "meta", "messages", "decoding"},  # what parts need that are built
    {"model"},
    {"processor", "placement", "quantisation", "misfits"},
    {"checkpoints"},
    {"data", "training", "inference"},
    {"evaluation", "serving", "diagnostics"},
    {"callbacks"},
    {"command", "composition"},
    {"chosen_model"},
    {"backends"},
    {"integrations"},
    {"commands", "list", "show"},
    {"cli"},
    {"completion"},  # completes the names of the commands
    {"__main__"},
]
PART_PACKAGES = next(names for names in LAYERS if "tilers" in names)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
HOMES = {
    "hydra": {"config", "overrides", "command", "commands"},
    "omegaconf": {"config", "overrides", "command", "commands"},
    "lightning": {"compat", "training", "callbacks", "data", "commands"},
    "pytorch_lightning": {"compat", "training", "callbacks", "data", "commands"},
}
HEAVY = {"timm", "open_clip", "transformers", "lightning", "peft", "torchvision"}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
PRIMARY = {path.stem for path in (ROOT / "conf").glob("*.yaml")}


def name_of(path: Path) -> str:
    """Dotted module name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str:
    """The name under hdvl that a module belongs to; every command counts as ``commands``."""
    parts = module.split(".")
    unit = parts[1] if len(parts) > 1 else ""
    return "commands" if unit in PRIMARY else unit


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(nodes: list[ast.AST], path: Path) -> list[tuple[str, int]]:
    """(dotted name, line) of each import among ``nodes``; ``from a import b`` gives ``a.b``."""
    found: list[tuple[str, int]] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def all_imports(path: Path) -> list[tuple[str, int]]:
    """Imports anywhere in a file, those inside functions too."""
    return imported(list(ast.walk(tree_of(path))), path)


def top_imports(path: Path) -> list[tuple[str, int]]:
    """Imports that run when the file is imported."""
    waiting: list[ast.AST] = [tree_of(path)]
    nodes: list[ast.AST] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
            continue
        nodes.append(node)
        waiting += ast.iter_child_nodes(node)
    return imported(nodes, path)


def file_of(name: str) -> Path | None:
    """The file that importing ``hdvl.a.b`` runs: a module, or the package a name comes from."""
    parts = name.split(".")
    while parts[0] == "hdvl":
        base = ROOT.joinpath(*parts)
        if base.with_suffix(".py").is_file():
            return base.with_suffix(".py")
        if (base / "__init__.py").is_file():
            return base / "__init__.py"
        parts = parts[:-1]
        if not parts:
            break
    return None


def loaded_by(path: Path) -> set[Path]:
    """The files of hdvl that importing ``path`` imports."""
    seen: set[Path] = set()
    waiting = [path, PACKAGE / "__init__.py"]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for package in current.relative_to(ROOT).parents:
            if (ROOT / package / "__init__.py").is_file():
                waiting.append(ROOT / package / "__init__.py")
        waiting += [file for name, _ in top_imports(current) if (file := file_of(name))]
    return seen


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- what holds of every file: generators of what is wrong with one ------------------------------


def has_a_layer(path: Path) -> Iterator[str]:
    unit = unit_of(name_of(path))
    if unit and unit not in RANK:
        yield f"has no layer; name {unit!r} in LAYERS or give it a conf/{unit}.yaml"


def imports_point_one_way(path: Path) -> Iterator[str]:
    if path == PACKAGE / "__init__.py":  # the public names, imported on first use
        return
    here = unit_of(name_of(path))
    for name, line in all_imports(path):
        if not name.startswith("hdvl.") or file_of(name) == PACKAGE / "__init__.py":
            continue
        there = unit_of(name)
        same_folder = here == there and here != "commands"
        if not same_folder and RANK.get(there, -1) >= RANK.get(here, -1):
            yield f"line {line}: {here} imports {name}"


def keeps_libraries_where_they_belong(path: Path) -> Iterator[str]:
    unit = unit_of(name_of(path))
    for name, line in all_imports(path):
        library = name.split(".")[0]
        if unit not in HOMES.get(library, {unit}):
            yield f"line {line}: {name}, which {', '.join(sorted(HOMES[library]))} alone know"
        if name == "hydra.utils.instantiate" and path != PACKAGE / "config.py":
            yield f"line {line}: use hdvl.config.build"


def parts_import_heavy_libraries_late(path: Path) -> Iterator[str]:
    if unit_of(name_of(path)) in PART_PACKAGES:
        for name, line in top_imports(path):
            if name.split(".")[0] in HEAVY:
                yield f"line {line}: import {name} inside the method that needs it"


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(tree_of(path))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_short(path: Path) -> Iterator[str]:
    count = len(path.read_text(encoding="utf-8").splitlines())
    if count > 400:
        yield f"{count} lines, at most 400"
    for node in functions_of(path):
        if lines_of(node) > 60:
            yield f"{node.name}: {lines_of(node)} lines, at most 60"


def is_annotated(path: Path) -> Iterator[str]:
    for node in functions_of(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments += [arg for arg in (node.args.vararg, node.args.kwarg) if arg]
        named = [arg for arg in arguments if arg.arg not in {"self", "cls"}]
        if node.returns is None or any(arg.annotation is None for arg in named):
            yield f"line {node.lineno}: {node.name} is not annotated"


def says_what_it_is(path: Path) -> Iterator[str]:
    if not ast.get_docstring(tree_of(path)):
        yield "has no docstring"


def has_no_forbidden_habit(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if caught in {"everything", "Exception", "BaseException"}:
                yield f"line {node.lineno}: catches {caught}; name the errors"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            for keyword in node.keywords:
                said = ast.unparse(keyword)
                if said == "trust_remote_code=True" or (said == "strict=False" and called != "zip"):
                    yield f"line {node.lineno}: {called}(... {said})"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if "TODO" in line or "FIXME" in line:
            yield f"line {number}: do it, or write an issue"


@pytest.mark.parametrize(
    "faults",
    [
        has_a_layer,
        imports_point_one_way,
        keeps_libraries_where_they_belong,
        parts_import_heavy_libraries_late,
        is_short,
        is_annotated,
        says_what_it_is,
        has_no_forbidden_habit,
    ],
)
def test_every_file(faults: Callable[[Path], Iterator[str]]) -> None:
    assert len(FILES) > 100
    found = [f"{relative(path)}: {fault}" for path in FILES for fault in faults(path)]
    assert not found, "\n".join(found)


# --- what holds of some, or of all together ------------------------------------------------------


def test_geometry_and_config_know_nothing_of_hdvl() -> None:
    for name in ("geometry", "config"):
        names = [imp for imp, _ in all_imports(PACKAGE / f"{name}.py")]
        assert not [imp for imp in names if imp.split(".")[0] == "hdvl"]


@pytest.mark.parametrize("command", ["cli", *sorted(PRIMARY)])
def test_help_loads_no_torch(command: str) -> None:
    path = PACKAGE / f"{command}.py"
    if not path.is_file():
        pytest.fail(f"conf/{command}.yaml is a primary file, but hdvl/{command}.py does not exist")
    for file in loaded_by(path):
        found = [n for n, _ in top_imports(file) if n.split(".")[0] in HEAVY | {"torch"}]
        assert not found, f"`hdvl {command} --help` loads {relative(file)}, which imports {found}"


def test_files_and_functions_are_short_in_the_middle() -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in FILES]
    assert statistics.median(lengths) <= 130
    assert statistics.median(lines_of(node) for path in FILES for node in functions_of(path)) <= 12


def test_tests_mirror_the_tree() -> None:
    """tests/a/test_b.py is about hdvl/a/b.py (or about the whole folder: tests/a/test_a.py).

    tests/tools is about tools.
    """
    lost = []
    for test in sorted((ROOT / "tests").glob("*/**/test_*.py")):
        folder = test.parent.relative_to(ROOT / "tests")
        if not (PACKAGE / folder).is_dir() and folder.parts != ("tools",):
            lost.append(f"{relative(test)}: no folder hdvl/{folder}")
    assert not lost, lost
