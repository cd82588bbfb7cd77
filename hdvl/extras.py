"""The packages that hdvl needs, and the extras that install optional ones."""

import importlib.metadata
import tomllib
from dataclasses import dataclass
from pathlib import Path

COMMANDS = {
    "evaluation": ("evaluate", "score", "evaluate diff"),
    "serving": ("serve",),
}
"""The commands that need an extra, whatever they are asked to do."""

PACKAGES = {"pyarrow": "datasets"}
"""The package of an extra that brings a module of another name."""


@dataclass(frozen=True)
class Ranges:
    """The requirements of hdvl, as strings of PEP 508, and where they were read."""

    source: str
    python: str
    core: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]


def read_ranges() -> Ranges:
    """Read the requirements from ``pyproject.toml`` of a checkout, or from the installed wheel's metadata."""
    project_file = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if project_file.is_file():
        project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"]
        extras = {name: tuple(requirements) for name, requirements in optional.items()}
        return Ranges(
            source="pyproject.toml",
            python=project["requires-python"],
            core=tuple(project["dependencies"]),
            extras=extras,
        )
    metadata = importlib.metadata.metadata("hdvl")
    return from_metadata(
        importlib.metadata.requires("hdvl") or [],
        extras=metadata.get_all("Provides-Extra") or [],
        python=metadata["Requires-Python"],
    )


def from_metadata(requires: list[str], *, extras: list[str], python: str) -> Ranges:
    """Sort a wheel's ``Requires-Dist`` lines by the extras that their markers name."""
    from packaging.requirements import Requirement

    core: list[str] = []
    by_extra: dict[str, list[str]] = {extra: [] for extra in extras}
    for line in requires:
        marker = Requirement(line).marker
        requirement = line.split(";")[0].strip()
        owner = next((e for e in extras if marker and marker.evaluate({"extra": e})), None)
        if marker is None or marker.evaluate({"extra": ""}):
            core.append(requirement)
        elif owner is not None:
            by_extra[owner].append(requirement)
    return Ranges(
        source="the installed package's metadata",
        python=python,
        core=tuple(core),
        extras={name: tuple(requirements) for name, requirements in by_extra.items()},
    )


def advice(error: ModuleNotFoundError, command: str) -> str | None:
    """The message for a module that is not installed; ``None`` if no extra has it.

    Args:
        error: what the import raised. A message that names an extra is left as it is.
        command: the command, which decides between several extras that have the package.
    """
    module = error.name or ""
    extras = _extras_with(module)
    if not extras or "pip install" in str(error):
        return None
    own = [extra for extra in extras if command in COMMANDS.get(extra, ())]
    package = PACKAGES.get(module.partition(".")[0], module.partition(".")[0])
    return (
        f"the package {package} is needed here and is not installed; install it with: "
        f"pip install 'hdvl[{(own or extras)[0]}]'"
    )


def _extras_with(module: str) -> list[str]:
    """The extras that name the package of a module themselves, those for development left out."""
    from packaging.requirements import Requirement

    name = module.partition(".")[0]
    package = PACKAGES.get(name, name)
    return [
        extra
        for extra, requirements in read_ranges().extras.items()
        if extra != "tests" and package in [Requirement(line).name for line in requirements]
    ]
