"""What ``hdvl doctor`` looks at: packages and their ranges, processor, accelerator, memory, fonts.

Each check gives findings and changes nothing. ``bad`` findings keep hdvl from working.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "note", "bad"]
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and what to do about it."""

    name: str
    value: str
    level: Level = "ok"
    advice: str = ""


@dataclass(frozen=True)
class Ranges:
    """The requirements of hdvl as written, and where they were read."""

    source: str
    python: str
    core: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]


def read_ranges() -> Ranges:
    """The ranges of the checkout's ``pyproject.toml``, or of the installed wheel's metadata."""
    project_file = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if project_file.is_file():
        project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
        extras = {name: tuple(wanted) for name, wanted in project["optional-dependencies"].items()}
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
    """Ranges out of a wheel's ``Requires-Dist`` lines, which name extras in their markers."""
    from packaging.requirements import Requirement

    core: list[str] = []
    wanted: dict[str, list[str]] = {extra: [] for extra in extras}
    for line in requires:
        marker = Requirement(line).marker
        bare = line.split(";")[0].strip()
        owner = next((e for e in extras if marker and marker.evaluate({"extra": e})), None)
        if marker is None or marker.evaluate({"extra": ""}):
            core.append(bare)
        elif owner is not None:
            wanted[owner].append(bare)
    return Ranges(
        source="the installed package's metadata",
        python=python,
        core=tuple(core),
        extras={name: tuple(lines) for name, lines in wanted.items()},
    )


def check_package(requirement: str) -> Finding:
    """The installed version of one requirement against its range."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    # Reversed, so that the lower bound stands first.
    span = ",".join(sorted(map(str, wanted.specifier), reverse=True)) or "any version"
    advice = f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(wanted.name, f"missing, needs {span}", "bad", advice)
    if wanted.specifier.contains(version, prereleases=True):
        return Finding(wanted.name, f"{version} (range {span})")
    return Finding(wanted.name, f"{version} is outside {span}", "bad", advice)


def check_python(python: str) -> Finding:
    """The interpreter against ``requires-python``."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if SpecifierSet(python).contains(version, prereleases=True):
        return Finding("python", f"{version} (range {python})")
    advice = "make a virtual environment with a Python in the range"
    return Finding("python", f"{version} is outside {python}", "bad", advice)


def check_packages(ranges: Ranges) -> Iterator[Finding]:
    """Python, hdvl itself and every core requirement."""
    from hdvl.version import __version__

    yield Finding("hdvl", f"{__version__} in {Path(__file__).resolve().parent}")
    yield check_python(ranges.python)
    yield from (check_package(requirement) for requirement in ranges.core)


def check_torchvision() -> Finding:
    """Whether torchvision's compiled operators work with this torch: runs one of them."""
    advice = "install both in one command: pip install --force-reinstall torch torchvision"
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # A mismatched pair fails in any of these ways, depending on which half is older.
        return Finding("torch + torchvision", str(error).splitlines()[0][:200], "bad", advice)
    return Finding("torch + torchvision", "builds match")


def missing_of(requirements: tuple[str, ...], extras: dict[str, tuple[str, ...]]) -> list[str]:
    """Names of ``requirements`` that are absent; ``hdvl[a,b]`` stands for the extras a and b."""
    from packaging.requirements import Requirement

    missing: list[str] = []
    for line in requirements:
        wanted = Requirement(line)
        if wanted.name == "hdvl":
            for extra in sorted(wanted.extras):
                missing += missing_of(extras[extra], extras)
        elif check_package(line).level == "bad":
            missing.append(wanted.name)
    return missing


def check_extras(ranges: Ranges) -> Iterator[Finding]:
    """Which optional sets of packages are complete."""
    for extra, requirements in ranges.extras.items():
        missing = missing_of(requirements, ranges.extras)
        if missing:
            advice = f"pip install 'hdvl[{extra}]'"
            yield Finding(extra, f"without {', '.join(missing)}", "note", advice)
        else:
            yield Finding(extra, "present")


def cpu_flags() -> frozenset[str]:
    """The processor's feature names where Linux lists them, else nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def check_processor() -> Iterator[Finding]:
    """Vector units and the number of threads that torch would use."""
    import torch

    flags = cpu_flags()
    telling = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    found = [name for name in telling if name in flags]
    capability = torch.backends.cpu.get_cpu_capability()
    units = f"{platform.machine()} with {' '.join(found) or 'no known vector units'}"
    yield Finding("processor", f"{units}; torch uses {capability}")
    if flags and not flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        yield Finding(
            "bf16 on the CPU", "emulated, many times slower", "note", "use precision 32 here"
        )
    usable = usable_cpus()
    threads = torch.get_num_threads()
    value = f"{threads} of torch on {usable} usable CPUs"
    if threads > usable:
        yield Finding("threads", value, "note", f"set OMP_NUM_THREADS={usable}")
    else:
        yield Finding("threads", value)


def usable_cpus() -> int:
    """CPUs that this process may use: affinity and container quota counted."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text(encoding="utf-8").split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    return count


def check_accelerator() -> Iterator[Finding]:
    """CUDA devices with their free memory, and the libraries that only help there."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            major, minor = torch.cuda.get_device_capability(index)
            memory = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
            yield Finding(f"cuda:{index}", f"{name}, capability {major}.{minor}, {memory}")
    elif Path("/proc/driver/nvidia").is_dir():
        value = f"a driver is loaded, but torch {torch.__version__} sees no device"
        yield Finding("cuda", value, "note", "check that this torch build matches the driver")
    elif torch.backends.mps.is_available():
        yield Finding("mps", "available")
    else:
        yield Finding("cuda", "no device; everything runs on the CPU")
    for package, use in (
        ("flash-attn", "attention over packed text"),
        ("bitsandbytes", "4-bit weights"),
    ):
        found = check_package(package)
        state = "absent" if found.level == "bad" else importlib.metadata.version(package)
        yield Finding(package, f"{state} (optional: {use})")


def available_memory() -> int | None:
    """Bytes to be had without swapping, container limit counted; None where it is not told."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    fields = dict(
        line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if line
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file():
        maximum = limit.read_text(encoding="utf-8").strip()
        if maximum != "max":
            room = int(maximum) - int(used.read_text(encoding="utf-8"))
            available = min(available, max(0, room))
    return available


def check_room(folder: Path) -> Iterator[Finding]:
    """Memory, and disk space where runs are written."""
    memory = available_memory()
    if memory is None:
        yield Finding("memory", f"not told by {sys.platform}", "note")
    elif memory < 2 * GIB:
        yield Finding("memory", f"{memory / GIB:.1f} GiB free", "note", "training needs 2 GiB")
    else:
        yield Finding("memory", f"{memory / GIB:.1f} GiB free")
    if not folder.is_dir():
        raise ValueError(f"folder must exist, got {str(folder)!r}; use folder=DIR")
    free = shutil.disk_usage(folder).free
    level: Level = "note" if free < 5 * GIB else "ok"
    advice = "a run's checkpoints may not fit" if level == "note" else ""
    yield Finding("disk", f"{free / GIB:.1f} GiB free in {folder.resolve()}", level, advice)


def check_fonts() -> Finding:
    """A font with Chinese glyphs, for synthetic documents and for boxes with Chinese labels."""
    from hdvl.data.synthetic.fonts import font_files

    try:
        file = font_files("zh")[0]
    except ModuleNotFoundError as error:
        return Finding("CJK font", "absent", "note", str(error))
    if not file.is_file():
        advice = "pip install --force-reinstall mplfonts"
        return Finding("CJK font", f"{file} is gone", "note", advice)
    return Finding("CJK font", file.name)
