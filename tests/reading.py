"""Which names the code reads: from the syntax trees of the package."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hdvl"
FILES = sorted(PACKAGE.rglob("*.py"))
# What the code calls a config, or a plain piece of one.
CONFIGS = {
    *("config", "cfg", "whole", "stage", "base", "plain", "trainer", "data", "optimizer"),
    *("options", "change", "tuning", "node"),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def attributes_read() -> frozenset[str]:
    """Every ``x.name`` that is read somewhere."""
    nodes = (node for path in FILES for node in ast.walk(tree_of(path)))
    return frozenset(
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


def is_check(node: ast.AST) -> bool:
    """An ``if`` that only raises: what it looks at is not used by that."""
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and all(isinstance(statement, ast.Raise) for statement in node.body)
    )


def walk_used(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of checks."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not is_check(child):
            yield from walk_used(child)


def stores(function: Function) -> dict[str, set[str]]:
    """For each name the attributes of self that it is merely kept as: ``self.b = a``."""
    kept: dict[str, set[str]] = {}
    for node in walk_used(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            for target, value in pairs(node.targets[0], node.value):
                if isinstance(target, ast.Attribute) and isinstance(value, ast.Name):
                    kept.setdefault(value.id, set()).add(target.attr)
    return kept


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(target, value) of an assignment, of several at once too."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        yield from zip(target.elts, value.elts, strict=True)
    else:
        yield target, value


def unused_parameters(function: Function) -> set[str]:
    """Parameters of which nothing follows: never read, or kept as an attribute that nobody reads."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    names = [node.id for node in walk_used(function) if isinstance(node, ast.Name)]
    kept, unused = stores(function), set()
    for argument in every:
        name = argument.arg
        attributes = kept.get(name, set())
        if names.count(name) > len(attributes) or attributes & attributes_read():
            continue
        unused.add(name)
    return unused - {"self", "cls"}


def definition(target: Any) -> Function | None:
    """Where a function, a classmethod or a class's ``__init__`` is written; None for dataclasses."""
    if isinstance(target, type):
        if dataclasses.is_dataclass(target):
            return None
        owner = next(base for base in target.__mro__ if "__init__" in vars(base))
        module, path = owner.__module__, [*owner.__qualname__.split("."), "__init__"]
    else:
        module, path = target.__module__, target.__qualname__.split(".")
    file = PACKAGE.parent.joinpath(*module.split("."))
    file = file.with_suffix(".py") if file.with_suffix(".py").is_file() else file / "__init__.py"
    node: Any = tree_of(file)
    for name in path:
        node = next(child for child in node.body if getattr(child, "name", None) == name)
    assert isinstance(node, Function)
    return node


def unused_keys(target: Any, keys: set[str]) -> set[str]:
    """Those of ``keys`` that the class or function ``target`` takes and does nothing with."""
    function = definition(target)
    if function is None:
        return keys - attributes_read()
    named = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    unused, others = keys & unused_parameters(function), keys - named
    if function.args.kwarg is None:
        return unused | others
    owner = made_by(target)
    return unused if owner is None else unused | unused_keys(owner, others)


def made_by(target: Any) -> type | None:
    """The class that a classmethod hands its further keywords to."""
    owner = getattr(target, "__self__", None)
    return owner if isinstance(owner, type) else None


def is_open(target: Any) -> bool:
    """Whether keys that nothing knows are accepted."""
    function = definition(target)
    if function is None or function.args.kwarg is None:
        return False
    if isinstance(target, type):  # super().__init__(**options): a library's base knows its own
        above = next(base for base in target.__mro__[1:] if "__init__" in vars(base))
        kinds = {p.kind for p in inspect.signature(above).parameters.values()}
        return above is object or inspect.Parameter.VAR_KEYWORD in kinds
    owner = made_by(target)
    return owner is None or is_open(owner)


def modules_of(path: Path) -> set[Path]:
    """``path`` and the files of the package that it imports, anywhere."""
    found = {path}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hdvl"):
            base = ROOT.joinpath(*str(node.module).split("."))
            names = [base, *(base / alias.name for alias in node.names)]
            found |= {n.with_suffix(".py") for n in names if n.with_suffix(".py").is_file()}
    return found


def keys_read(files: set[Path]) -> set[str]:
    """Names that are read of something called a config: ``config.name``, ``config["name"]``, ``get``."""
    found: set[str] = set()
    for node in (node for path in files for node in ast.walk(tree_of(path))):
        if isinstance(node, ast.Attribute) and root(node) in CONFIGS:
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and root(node) in CONFIGS:
            found |= strings(node.slice)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".get"):
            found |= strings(node.args[0]) if root(node.func) in CONFIGS else set()
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple):
            found |= strings(node.iter)  # for name in ("prompt", "system"): config[name]
    return found


def root(node: ast.AST) -> str:
    """The name that a chain of attributes, items and calls begins with."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return ""
    return node.id


def strings(node: ast.AST) -> set[str]:
    """The string constants in ``node``."""
    constants = (part for part in ast.walk(node) if isinstance(part, ast.Constant))
    return {part.value for part in constants if isinstance(part.value, str)}


def unpacked(files: set[Path]) -> set[str]:
    """Names of pieces of a config that go into a call as ``**config.name``."""
    found: set[str] = set()
    for node in (node for path in files for node in ast.walk(tree_of(path))):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg is None:
                    inside = ast.walk(keyword.value)
                    found |= {part.attr for part in inside if isinstance(part, ast.Attribute)}
                    found |= {
                        part.id for part in ast.walk(keyword.value) if isinstance(part, ast.Name)
                    }
                    found |= strings(keyword.value)
    return found


@cache
def parameters_used() -> frozenset[str]:
    """Names of parameters of which something follows in some function, and of fields that are read."""
    found = set(attributes_read())
    for node in (node for path in FILES for node in ast.walk(tree_of(path))):
        if isinstance(node, Function):
            names = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            found |= names - unused_parameters(node)
    return frozenset(found)
