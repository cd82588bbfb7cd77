"""Does vLLM answer like hdvl? Random models are exported, and greedy ids are compared.

    python tools/vllm_environment.py VENV        # once: an environment with vLLM for CPUs and hdvl
    VENV/bin/python tools/check_vllm.py          # all cases
    VENV/bin/python tools/check_vllm.py llava small

Each case is a small model of random weights (``small`` is the shipped one). It is saved, exported, and asked
about images of several sizes, one and two at a time, by ``Pipeline.generate_ids`` and by vLLM's ``LLM.chat``.
The ids of the prompts and of the answers must be equal. The exit code is 1 if they differ.
"""

import argparse
import gc
import os
import sys
import tempfile
import traceback
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from check_vllm_cases import CASES, Case
from PIL import Image

SETTINGS = {
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


def of_hdvl(folder: Path, turned: bool) -> list[tuple[list[int], list[int]]]:
    """The ids of each prompt and of its greedy answer by hdvl."""
    from hdvl.inference.load import load
    from hdvl.protocols import Message

    pipe = load(folder)
    samples = [
        pipe.processor(
            [Message("user", QUESTION, tuple(pictures(sizes, turned)))], add_generation_prompt=True
        )
        for sizes in SIZES
    ]
    prompts = [(sample.ids, sample.pixels, sample.plans) for sample in samples]
    answers = pipe.generate_ids(prompts, max_new_tokens=NEW, stop_ids=())
    return [(sample.ids.tolist(), ids) for sample, ids in zip(samples, answers, strict=True)]


def of_vllm(folder: Path, turned: bool, **options: Any) -> list[tuple[list[int], list[int]]]:
    """The ids of each prompt and of its greedy answer by vLLM."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=2,
        **{"max_model_len": 2048, "limit_mm_per_prompt": {"image": 2}, **options},
    )
    talks = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image_pil", "image_pil": item} for item in pictures(sizes, turned)),
                    {"type": "text", "text": QUESTION},
                ],
            }
        ]
        for sizes in SIZES
    ]
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    said = llm.chat(talks, params, use_tqdm=False)
    found = [(list(item.prompt_token_ids), list(item.outputs[0].token_ids)) for item in said]
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return found


def check(name: str, case: Case, place: Path) -> bool:
    """Print a line for a case, and return whether the ids are equal."""
    from hdvl.checkpoints.exporters import FORMATS

    source = case.saved(place / name)
    exported = FORMATS[case.format](source, place / f"{name}-{case.format}")
    # Other than hdvl's tilers, processors of vLLM's own classes turn images whatever was exported.
    turned = case.format == "vllm"
    ours = of_hdvl(source, turned)
    try:
        theirs = of_vllm(exported.folder, turned, **case.options)
    except Exception as error:  # of any kind: the other cases are still of interest
        traceback.print_exc()
        print(
            f"{name}: {exported.architecture}, vLLM FAILED: {type(error).__name__}: {error}",
            flush=True,
        )
        return False
    answers = len({tuple(ids) for _, ids in ours})
    same_prompts = sum(a == b for (a, _), (b, _) in zip(ours, theirs, strict=True))
    same = sum(a == b for (_, a), (_, b) in zip(ours, theirs, strict=True))
    print(
        f"{name}: {exported.architecture}, {same_prompts} of {len(SIZES)} prompts and {same} answers are "
        f"equal; {answers} different answers, prompts of {[len(ids) for ids, _ in ours]} ids",
        flush=True,
    )
    for sizes, (prompt, ids), (prompt2, ids2) in zip(SIZES, ours, theirs, strict=True):
        if prompt != prompt2:
            print(
                f"  {sizes} prompts: hdvl {len(prompt)} ids, vLLM {len(prompt2)} ids\n  {prompt}\n  {prompt2}"
            )
        if ids != ids2:
            print(f"  {sizes} answers:\n  hdvl {ids}\n  vLLM {ids2}")
    return same_prompts == same == len(SIZES) and answers > 1


def main() -> None:
    """Check the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", choices=[*CASES, []], help="cases; all of them if none is given"
    )
    chosen = parser.parse_args().cases or list(CASES)
    with tempfile.TemporaryDirectory() as place:
        equal = [check(name, CASES[name], Path(place)) for name in chosen]
    sys.exit(not all(equal))


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    main()
