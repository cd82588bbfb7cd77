"""The words with which the official script of a benchmark asks its judge, read out of that script.

These words are not part of this package. The script is in the data folder with the files of the
benchmark. It is parsed, never executed; its words are used exactly, and the report names its checksum.
"""

import ast
from pathlib import Path
from typing import Any


class Script:
    """An official script in Python, as text.

    Raises:
        ValueError: the file is no Python.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path} must be a Python script, it is not: {error}") from None

    def constant(self, name: str) -> Any:
        """The plain value that the script assigns to ``name``."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and _is(node.targets[0], name):
                try:
                    return ast.literal_eval(node.value)
                except ValueError:
                    continue
        raise self._lacks(f"a plain value of {name}")

    def template(self, name: str, function: str | None = None) -> str:
        """The text that the script builds in ``name``, as a template of :meth:`str.format`.

        Its fields are the names of the variables, ``{row_key}`` for ``row["key"]``. Texts that are added to
        ``name`` are joined in the order in which they stand.
        """
        pieces = []
        for node in ast.walk(self._function(function)):
            if isinstance(node, ast.Assign) and _is(node.targets[0], name):
                pieces.append((node.lineno, _text(node.value)))
            elif isinstance(node, ast.AugAssign) and _is(node.target, name):
                pieces.append((node.lineno, _text(node.value)))
        if not pieces or any(piece is None for _, piece in pieces):
            raise self._lacks(f"the text {name}")
        return "".join(piece or "" for _, piece in sorted(pieces, key=lambda one: one[0]))

    def system(self) -> str:
        """The system message, a dictionary with the role ``system``."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Dict):
                continue
            fields = {
                str(key.value): str(value.value)
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
                if isinstance(key.value, str) and isinstance(value.value, str)
            }
            if fields.get("role") == "system":
                return fields.get("content", "")
        raise self._lacks("a system message")

    def _function(self, name: str | None) -> ast.AST:
        if name is None:
            return self.tree
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return node
        raise self._lacks(f"the function {name}")

    def _lacks(self, what: str) -> ValueError:
        return ValueError(
            f"{self.path} must have {what}, as the official script has; download it again"
        )


def _is(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _text(node: ast.AST) -> str | None:
    """The template of an expression that makes a text; ``None`` for other expressions."""
    parts: list[str | None]
    match node:
        case ast.Constant(value=str(text)):
            return text.replace("{", "{{").replace("}", "}}")
        case ast.Name(id=name):
            return f"{{{name}}}"
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))):
            return f"{{{name}_{key}}}"
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Name(id=key)):
            return f"{{{name}_{key}}}"
        case ast.FormattedValue(value=value):
            return _text(value)
        case ast.JoinedStr(values=values):
            parts = [_text(value) for value in values]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = [_text(left), _text(right)]
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format"), args=args
        ):
            between = text.split("{}")
            if len(between) != len(args) + 1:
                return None
            parts = [between[0]]
            for value, after in zip(args, between[1:], strict=True):
                parts += [_text(value), after]
        case _:
            return None
    return None if None in parts else "".join(part or "" for part in parts)
