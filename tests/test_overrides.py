"""Values of the command line arrive as they were typed."""

import random
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hdvl.cli import as_overrides
from hdvl.config import compose
from hdvl.overrides import literal_text, typed_overrides

SIGNS = list("ab,='\"\\${}[]()~#\u5b9e \n\t:%&?.0_\u00e9!/-")


def arrives(word: str, *options: str) -> Any:
    """The value that OmegaConf gives for a typed ``key=value``."""
    override = OverridesParser.create().parse_override(typed_overrides([word, *options])[0])
    if override.is_sweep_override():
        return [getattr(item, "text", str(item)) for item in override.value().list]  # type: ignore[union-attr]
    return OmegaConf.to_container(OmegaConf.create({"key": override.value()}), resolve=True)["key"]  # type: ignore[index, call-overload]


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    "text",
    [
        "Where, exactly, (in pixels)?",
        "\u56fe\u4e2d\u7684\u603b\u91d1\u989d\u662f\u591a\u5c11\uff1f",
        'it\'s "quoted" and a back\\slash\\',
        '"quoted"',
        "[INST] What? [/INST]",
        "{a: b}",
        "a=b; {c} [d] ${e} \\${x} $5: 100%",
        "42",
        "null",
        "two\nlines",
        "  spaces  ",
        "ends with \\\n",
    ],
)
def test_prompts(text: str) -> None:
    assert arrives(f"prompt={text}") == text
    assert compose(*typed_overrides([f"prompt={text}"]), config_name="infer").prompt == text


@pytest.mark.parametrize(
    "path",
    [
        "\u5b9e\u9a8c/\u4e00",
        "runs/lr=1e-3",
        "a(1).json",
        "~/x#1.png",
        "it's.png",
        'say "a".png',
        "a,b.png",
        "[1].png",
        "2026_11",
        "1e3",
        "range(3)",
        "a b/c&d;e!",
        "nan",
    ],
)
@pytest.mark.parametrize("key", ["run_dir", "data.train.path", "image", "+data.train.image_folder"])
def test_paths(path: str, key: str) -> None:
    assert arrives(f"{key}={path}") == path


def test_text_of_any_signs() -> None:
    source = random.Random(0)
    for _ in range(400):
        text = "".join(source.choice(SIGNS) for _ in range(source.randint(1, 9)))
        if text != "???":
            assert arrives(f"prompt={text}") == text


def test_values_that_hydra_parses() -> None:
    assert arrives("image=[a.png,b(1).png]") == ["a.png", "b(1).png"]
    assert arrives("path={vision: a, llm: b}") == {"vision": "a", "llm": "b"}
    assert arrives("checkpoint=null") is None
    assert arrives("trainer.max_steps=4") == 4
    assert arrives("optimizer.shape=cosine,linear", "--multirun") == ["cosine", "linear"]
    assert arrives("image=a.png,b.png", "-m") == ["a.png", "b.png"]
    assert arrives("prompt='a, b','c'", "-m") == ["a, b", "c"]
    kept = ["--config-dir", "/a=b", "hydra.run.dir=x", "~callbacks.audit", "run_dir=runs/${seed}"]
    assert typed_overrides(kept)[:4] == kept[:4]
    assert arrives("data.train.documents=1,2") == ["1", "2"], (
        "Hydra says what a sum of choices needs"
    )


def test_text_that_cannot_be_quoted() -> None:
    words = ["prompt=???", "system=null", "seed=3"]
    assert literal_text(words) == {"prompt": "???"}


def test_bare_words(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    (word,) = as_overrides("compare", ["lr=1", "it's"])
    assert arrives(word) == ["lr=1", "it's"]
