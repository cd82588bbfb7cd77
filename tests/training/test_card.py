"""The card of a trained model names its base, data, licence and scores."""

from pathlib import Path

from hdvl.checkpoints.card import read_licence
from hdvl.training.card import run_card


def stage(folder: Path, **changes):
    train = {"_target_": "hdvl.data.readers.LlavaConversations", "path": "mine.json"}
    tuning = {"encoder": "frozen", "bridge": "full", "merger": "full", "llm": "lora"}
    config = {"run_dir": str(folder), "init_from": "hdvl/small", "licence": None, "tuning": tuning}
    return config | {"data": {"train": train, "holdout": 0.1}} | changes


def test_a_fine_tuned_model(tmp_path: Path) -> None:
    rows = ["1,train/loss,2.0", "2,train/loss,0.5", "2,validation/loss,0.75"]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,name,value", *rows]) + "\n")
    card = run_card([stage(tmp_path)])
    assert (card["licence"], card["base_model"]) == ("Apache-2.0", "hdvl/small")
    assert "Fine-tuned from `hdvl/small` (licence: Apache-2.0)." in card["about"]
    trained = "bridge (full), merger (full), llm (lora)"
    data = "`mine.json` (LlavaConversations) without 10 % held out"
    assert f"| 1 | 2 | {trained} | {data} |" in card["about"]
    assert "| validation loss | 2 | 0.75 |" in card["about"]


def test_a_model_from_nothing_with_a_licence_of_its_own(tmp_path: Path) -> None:
    documents = {"_target_": "hdvl.data.synthetic.SyntheticDocuments", "seed": 0}
    synthetic = {"train": {"_target_": "a.SyntheticConversations", "documents": documents}}
    card = run_card([stage(tmp_path, init_from=None, licence="MIT", data=synthetic)])
    assert (card["licence"], card["base_model"]) == ("MIT", None)
    assert "Fine-tuned" not in card["about"] and "| SyntheticDocuments |" in card["about"]


def test_licences_are_read_from_the_head_of_a_card(tmp_path: Path) -> None:
    assert read_licence(tmp_path) is None
    for text, licence in (("---\nlicense: MIT\n---\n# A", "MIT"), ("# A\nlicense: MIT", None)):
        (tmp_path / "README.md").write_text(text)
        assert read_licence(tmp_path) == licence
