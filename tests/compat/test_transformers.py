"""Loading a model does not import the parts of other libraries that no answer needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from hdvl.compat.transformers import UNUSED
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
HEAVY = ("torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "scipy.optimize")


def imported_by(code: str) -> set[str]:
    """Which of ``HEAVY`` a new process has imported after ``code``."""
    words = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {*HEAVY} & set(done.stdout.splitlines())


@pytest.mark.slow
def test_transformers_imports_them_otherwise() -> None:
    assert all(any(f"{name}.".startswith(f"{known}.") for known in UNUSED) for name in HEAVY)
    assert imported_by("import transformers.models.qwen3.modeling_qwen3") == {*HEAVY}


@pytest.mark.slow
def test_loading_and_answering_import_none(tiny_folder: Path) -> None:
    code = (
        "import hdvl\nfrom PIL import Image\n"
        f"pipe = hdvl.load({str(tiny_folder)!r})\n"
        "pipe.chat('What?', images=[Image.new('RGB', (50, 40))], max_new_tokens=2)"
    )
    assert imported_by(code) == set()


@pytest.mark.slow
def test_what_is_put_off_works_when_it_is_needed(tiny_folder: Path) -> None:
    code = (
        "import hdvl, torch\n"
        f"hdvl.load({str(tiny_folder)!r})\n"
        "from torch.distributed.tensor import DTensor\n"
        "import transformers.distributed.sharding_utils as sharding\n"
        "assert sharding.DTensor is not DTensor and issubclass(DTensor, sharding.DTensor)\n"
        "import torch._dynamo\n"
        "from transformers.integrations import finegrained_fp8\n"
        "from torch._dynamo.trace_rules import is_callable_allowed\n"
        "assert is_callable_allowed(finegrained_fp8._load_finegrained_fp8_kernel)\n"
        "compiled = torch.compile(lambda x: 2 * x, backend='eager')\n"
        "assert compiled(torch.ones(2)).tolist() == [2.0, 2.0]\n"
        "from transformers.loss.loss_for_object_detection import linear_sum_assignment\n"
        "rows, columns = linear_sum_assignment([[1, 0], [0, 1]])\n"
        "assert columns.tolist() == [1, 0]"
    )
    assert set(HEAVY) >= imported_by(code) >= {"torch._dynamo", "scipy.optimize"}
