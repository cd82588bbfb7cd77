"""Checks of ``hdvl doctor``: packages and their versions, processor, accelerator, memory and fonts.

Each check returns findings and changes nothing. A finding of level ``bad`` means that hdvl cannot work.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hdvl.extras import COMMANDS, Ranges

Level = Literal["ok", "note", "bad"]
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was checked, what was found, and what to do about it."""

    name: str
    value: str
    level: Level = "ok"
    advice: str = ""


def check_package(requirement: str) -> Finding:
    """Check that a package is installed in a version that ``requirement`` allows."""
    from packaging.requirements import Requirement

    required = Requirement(requirement)
    # In reverse order the lower bound comes first.
    span = ",".join(sorted(map(str, required.specifier), reverse=True)) or "any version"
    advice = f"pip install '{required.name}{required.specifier}'"
    try:
        version = importlib.metadata.version(required.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(required.name, f"missing, needs {span}", "bad", advice)
    if required.specifier.contains(version, prereleases=True):
        return Finding(required.name, f"{version} (range {span})")
    return Finding(required.name, f"{version} is outside {span}", "bad", advice)


def check_python(python: str) -> Finding:
    """Check the version of the interpreter against ``requires-python``."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    if SpecifierSet(python).contains(version, prereleases=True):
        return Finding("python", f"{version} (range {python})")
    advice = "create a virtual environment with a Python in the range"
    return Finding("python", f"{version} is outside {python}", "bad", advice)


def check_packages(ranges: Ranges) -> Iterator[Finding]:
    """Check Python and every core requirement, and report the version of hdvl."""
    from hdvl.version import __version__

    yield Finding("hdvl", f"{__version__} in {Path(__file__).resolve().parent}")
    yield check_python(ranges.python)
    yield from (check_package(requirement) for requirement in ranges.core)


def check_torchvision() -> Finding:
    """Check that torchvision's compiled operators work with the installed torch by running one of them."""
    advice = "install both in one command: pip install --force-reinstall torch torchvision"
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # Which of these is raised depends on which of the two packages is older.
        return Finding("torch + torchvision", str(error).splitlines()[0][:200], "bad", advice)
    return Finding("torch + torchvision", "builds match")


def missing_of(requirements: tuple[str, ...], extras: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the names of missing packages; ``hdvl[a,b]`` means the packages of the extras a and b."""
    from packaging.requirements import Requirement

    missing: list[str] = []
    for line in requirements:
        required = Requirement(line)
        if required.name == "hdvl":
            for extra in sorted(required.extras):
                missing += missing_of(extras[extra], extras)
        elif check_package(line).level == "bad":
            missing.append(required.name)
    return missing


def check_extras(ranges: Ranges) -> Iterator[Finding]:
    """Report for each extra of hdvl whether its packages are installed, and which commands need them."""
    for extra, requirements in ranges.extras.items():
        missing = missing_of(requirements, ranges.extras)
        if missing:
            advice = f"pip install 'hdvl[{extra}]'"
            commands = ", ".join(f"hdvl {name}" for name in COMMANDS.get(extra, ()))
            needed = f", which {commands} cannot do without" if commands else ""
            yield Finding(extra, f"without {', '.join(missing)}{needed}", "note", advice)
        else:
            yield Finding(extra, "present")


def cpu_flags() -> frozenset[str]:
    """Return the feature flags of the processor; empty where ``/proc/cpuinfo`` does not list them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def check_processor() -> Iterator[Finding]:
    """Report the vector instructions of the processor and the number of threads that torch uses."""
    import torch

    flags = cpu_flags()
    vector_flags = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    found = [name for name in vector_flags if name in flags]
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
    """Return the number of CPUs that affinity and the container's quota allow this process to use."""
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
    """Report the accelerators with their free memory, and the libraries that are used only on CUDA."""
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
    """Return the bytes that can be allocated without swapping, within the container's limit.

    Returns ``None`` on systems without ``/proc/meminfo``.
    """
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
    """Report the free memory, and the free disk space of ``folder``, where runs are written.

    Raises:
        ValueError: the folder does not exist.
    """
    memory = available_memory()
    if memory is None:
        yield Finding("memory", f"not available on {sys.platform}", "note")
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
    """Check for a font with Chinese glyphs, for synthetic documents and boxes with Chinese labels."""
    from hdvl.data.synthetic.fonts import font_files

    try:
        file = font_files("zh")[0]
    except ModuleNotFoundError as error:
        return Finding("CJK font", "absent", "note", str(error))
    if not file.is_file():
        advice = "pip install --force-reinstall mplfonts"
        return Finding("CJK font", f"{file} does not exist", "note", advice)
    return Finding("CJK font", file.name)
