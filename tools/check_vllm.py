"""Does vLLM answer like hdvl? Random models are exported, and greedy ids are compared.

    python tools/vllm_environment.py VENV        # once: an environment with vLLM for CPUs and hdvl
    python tools/check_vllm.py VENV              # all cases
    python tools/check_vllm.py VENV llava small

Each case is a small model of random weights (``small`` is the shipped one). Here it is saved, exported, and
asked about images of several sizes, one and two at a time, by ``Pipeline.generate_ids``. Then the interpreter
of VENV runs this file and asks ``LLM.chat`` of vLLM. The ids of the prompts and of the answers must be equal.
The exit code is 1 if they differ.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from check_vllm_cases import CASES, Case
from PIL import Image

ENVIRONMENT = os.environ | {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
QUESTION = "What is written here?"
SIZES = [((300, 200),), ((97, 61),), ((120, 260),), ((64, 64), (250, 90)), ()]
"""The (width, height) of the images of each question."""
NEW = 16
ORIENTATION = 274


Ids = tuple[list[int], list[int]]
"""The ids of a prompt and of its answer."""


def pictures(sizes: tuple[tuple[int, int], ...], turned: bool) -> list[Image.Image]:
    """Pictures of noise, different for each size and place; with ``turned`` EXIF turns them."""
    rng = np.random.default_rng(len(sizes) + sum(map(sum, sizes)))
    found = []
    for width, height in sizes:
        noise = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)
        exif = Image.Exif()
        if turned:
            exif[ORIENTATION] = 6
        stream = BytesIO()
        picture.save(stream, "PNG", exif=exif)
        found.append(Image.open(stream))
    return found


def asked(case: Case) -> list[tuple[tuple[int, int], ...]]:
    """The sizes of the images of each question."""
    return [sizes for sizes in SIZES if len(sizes) < 2 or case.several]


def of_hdvl(folder: Path, case: Case) -> list[Ids]:
    """The ids of each prompt and of its greedy answer by hdvl."""
    from hdvl.inference.load import load
    from hdvl.protocols import Message

    pipe = load(folder)
    samples = [
        pipe.processor(
            [Message("user", QUESTION, tuple(pictures(sizes, case.turned)))],
            add_generation_prompt=True,
        )
        for sizes in asked(case)
    ]
    prompts = [(sample.ids, sample.pixels, sample.plans) for sample in samples]
    answers = pipe.generate_ids(prompts, max_new_tokens=NEW, stop_ids=())
    return [(sample.ids.tolist(), ids) for sample, ids in zip(samples, answers, strict=True)]


def of_vllm(folder: Path, case: Case) -> list[Ids]:
    """The ids of each prompt and of its greedy answer by vLLM."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=2,
        **{"max_model_len": 2048, "limit_mm_per_prompt": {"image": 2}, **case.options},
    )
    talks = [
        [
            {
                "role": "user",
                "content": [
                    *(
                        {"type": "image_pil", "image_pil": item}
                        for item in pictures(sizes, case.turned)
                    ),
                    {"type": "text", "text": QUESTION},
                ],
            }
        ]
        for sizes in asked(case)
    ]
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    said = llm.chat(talks, params, use_tqdm=False)
    found = [(list(item.prompt_token_ids), list(item.outputs[0].token_ids)) for item in said]
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return found


def prepare(name: str, place: Path) -> str:
    """Save and export the model of a case in ``place``, write hdvl's ids, and return the architecture."""
    from hdvl.checkpoints.exporters import FORMATS

    case = CASES[name]
    source = case.saved(place / name)
    exported = FORMATS[case.format](source, place / f"{name}-exported")
    (place / f"{name}.json").write_text(json.dumps(of_hdvl(source, case)))
    return exported.architecture


def compare(name: str, place: Path) -> bool:
    """Ask vLLM, print a line for the case, and return whether the ids are equal."""
    case = CASES[name]
    ours = [(prompt, ids) for prompt, ids in json.loads((place / f"{name}.json").read_text())]
    theirs = of_vllm(place / f"{name}-exported", case)
    answers = len({tuple(ids) for _, ids in ours})
    same_prompts = sum(a == b for (a, _), (b, _) in zip(ours, theirs, strict=True))
    same = sum(a == b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    print(
        f"{name}: {same_prompts} of {len(ours)} prompts and {same} answers are equal; {answers} different "
        f"answers, prompts of {[len(ids) for ids, _ in ours]} ids",
        flush=True,
    )
    for sizes, (prompt, ids), (prompt2, ids2) in zip(asked(case), ours, theirs, strict=True):
        if prompt != prompt2:
            print(f"  {sizes} prompts:\n  hdvl {prompt}\n  vLLM {prompt2}")
        if ids != ids2:
            print(f"  {sizes} answers:\n  hdvl {ids}\n  vLLM {ids2}")
    return same_prompts == same == len(ours) and answers > 1


def attempted(step: Callable[[str, Path], object], name: str, place: Path) -> object:
    """What ``step`` returns for a case, or false after its error was printed: other cases follow."""
    try:
        return step(name, place)
    except Exception as error:
        traceback.print_exc()
        print(f"{name}: FAILED, {type(error).__name__}: {error}", flush=True)
        return False


def main() -> None:
    """Prepare the cases here, and compare them in the environment of vLLM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", type=Path, help="the folder of the environment with vLLM")
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)}; all if none is given")
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)  # in the environment
    options = parser.parse_args()
    chosen = options.cases or list(CASES)
    unknown = sorted(set(chosen) - set(CASES))
    if unknown:
        parser.error(f"cases must be of {', '.join(CASES)}, got {', '.join(unknown)}")
    if options.prepared is not None:
        sys.exit(not all([attempted(compare, name, options.prepared) for name in chosen]))
    with tempfile.TemporaryDirectory() as place:
        ready = [name for name in chosen if attempted(prepare, name, Path(place))]
        words = [options.environment / "bin" / "python", __file__, options.environment, *ready]
        done = subprocess.run([*map(str, words), "--prepared", place], check=False, env=ENVIRONMENT)
    sys.exit(done.returncode or len(ready) < len(chosen))


if __name__ == "__main__":
    main()
