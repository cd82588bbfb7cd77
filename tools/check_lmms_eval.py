"""Runs a local task of lmms-eval with the shipped model, in an environment of its own.

    python tools/check_lmms_eval.py --environment DIR [--install]

``--install`` makes the environment (some GB) with torch and torchvision as in ``constraints.txt``, lmms-
eval and this checkout in one command of pip, so that their requirements fit each other. The task has
four questions about shipped images. It runs offline, through the plug-in, and the check fails unless
every question is scored and has its number of tokens.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["lmms-eval==0.7.3", "filelock<4"]  # lmms-eval imports filelock._api
ASSETS = ROOT / "hdvl/assets"
TASK = """
task: hdvl_local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: "question"
doc_to_messages: !function utils.messages
doc_to_target: "answer"
generation_kwargs: {{max_new_tokens: 24, temperature: 0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
UTILS = """
from PIL import Image


def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def messages(doc, lmms_eval_specific_kwargs=None):
    picture = {"type": "image", "url": visual(doc)[0]}
    return [{"role": "user", "content": [picture, {"type": "text", "text": doc["question"]}]}]
"""


def torch_pins() -> list[str]:
    """torch and torchvision, whose compiled operators fit exactly one torch, as the tests run with them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith(("torch==", "torchvision=="))]


def install(environment: Path) -> None:
    """Make the environment."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin/pip"), "install", *torch_pins(), *PACKAGES, "-e", str(ROOT)]
    subprocess.run(pip, check=True)


def write_task(folder: Path) -> None:
    """The YAML of the task, its functions and its questions about shipped images."""
    asked = json.loads((ASSETS / "demo.json").read_text(encoding="utf-8"))
    rows = [
        {"image": str(ASSETS / one["image"]), "question": one["question"], "answer": one["answer"]}
        for one in asked
    ][:4]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "hdvl_local.yaml").write_text(TASK.format(rows=path), encoding="utf-8")
    (folder / "utils.py").write_text(UTILS, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--install", action="store_true")
    asked = parser.parse_args()
    if asked.install:
        install(asked.environment)
    with TemporaryDirectory() as name:
        folder, out = Path(name) / "task", Path(name) / "out"
        folder.mkdir()
        write_task(folder)
        command = [str(asked.environment / "bin/python"), "-m", "lmms_eval", "--model", "hdvl"]
        command += ["--model_args", "checkpoint=hdvl/small", "--tasks", "hdvl_local"]
        command += ["--include_path", str(folder), "--output_path", str(out), "--log_samples"]
        offline = {
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(Path(name) / "hf"),
        }
        subprocess.run([*command, "--device", "cpu"], env={**os.environ, **offline}, check=True)
        (path,) = out.rglob("*samples_hdvl_local.jsonl")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        print(row["doc_id"], row["target"], row["filtered_resps"], row.get("token_counts"))
    if len(rows) != 4 or not all(row.get("token_counts") for row in rows):
        sys.exit("every question must be scored and have its number of tokens")
    print("the task ran through the plug-in")


if __name__ == "__main__":
    main()
