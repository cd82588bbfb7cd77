"""Language models from GGUF files: the same model, its tokenizer and template, and clear errors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hdvl.config import build, compose
from hdvl.decoding import generate
from hdvl.llms import CausalLM
from hdvl.templates import TokenizerTemplate
from tests.llms import tiny_llm
from tests.llms.gguf_files import write_gguf

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def llm() -> CausalLM:
    torch.manual_seed(0)
    made = tiny_llm.make(
        "llama", tokenizer_size=512, intermediate_size=64, tie_word_embeddings=False
    )
    return made.eval()


@pytest.fixture(scope="module")
def file(llm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(llm, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_it_is_the_model_that_was_written(llm: CausalLM, file: Path) -> None:
    for path in (file, file.parent):
        loaded = CausalLM.from_pretrained(str(path)).eval()
        assert loaded.state_dict().keys() == llm.state_dict().keys()
        ids = torch.tensor([[5, 300, 17, 260]])
        torch.testing.assert_close(loaded(loaded.embed(ids)), llm(llm.embed(ids)))
        text = "<|im_start|>user\nWhere is 42?<|im_end|>"
        assert loaded.tokenizer(text).input_ids == llm.tokenizer(text).input_ids
        assert loaded.stop_ids == () and loaded.tokenizer.eos_token == "<|im_end|>"
    config = loaded.config_node()["config"]
    assert config["model_type"] == "llama" and "quantization_config" not in config
    again = CausalLM.from_config(config=config, tokenizer=loaded.tokenizer)
    again.load_state_dict(loaded.state_dict())
    torch.testing.assert_close(again.eval()(again.embed(ids)), llm(llm.embed(ids)))


def test_quantised_weights_become_ordinary_ones(llm: CausalLM, tmp_path: Path) -> None:
    loaded = CausalLM.from_pretrained(
        str(write_gguf(llm, tmp_path / "q8.gguf", quantised=True)), dtype="bfloat16"
    )
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad for p in loaded.parameters())
    for name, value in loaded.float().state_dict().items():
        torch.testing.assert_close(value, llm.state_dict()[name], atol=2e-3, rtol=2e-2)
    prompt = loaded.embed(torch.tensor([[1, 2, 3]]))
    assert generate(loaded, prompt, max_new_tokens=2, stop_ids=[]).shape == (1, 2)


def test_meta_reads_no_weights(llm: CausalLM, file: Path) -> None:
    with torch.device("meta"):
        loaded = CausalLM.from_pretrained(str(file))
    assert all(value.is_meta for value in loaded.parameters())
    assert loaded.width == llm.width and len(loaded.tokenizer) == 512


def test_it_composes_with_its_own_chat_template(file: Path) -> None:
    words = ("llm=pretrained", f"llm.path={file}", "template=tokenizer", "encoder=tiny")
    vlm = build(compose(*words).model)
    assert isinstance(vlm.template, TokenizerTemplate)
    assert vlm.template.chat_template == vlm.llm.tokenizer.get_chat_template()
    assert vlm.template.stop == ("<|im_end|>",)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3000])


def cut_early(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def other_content(file: Path) -> None:
    file.write_bytes(b"PK" + file.read_bytes())


@pytest.mark.parametrize(
    ("damage", "options", "reason"),
    [
        (cut, {}, "cannot be read: ValueError: cannot reshape"),
        (cut_early, {}, "cannot be read"),
        (other_content, {}, "does not begin with GGUF"),
        (None, {"architecture": "wavernn"}, r"wavernn is not supported"),
        (None, {"tokenizer": False}, "its tokenizer cannot be read"),
    ],
    ids=["cut", "cut early", "other", "architecture", "no tokenizer"],
)
def test_files_that_cannot_be_read(
    llm: CausalLM,
    tmp_path: Path,
    damage: Callable[[Path], None] | None,
    options: dict[str, object],
    reason: str,
) -> None:
    file = write_gguf(llm, tmp_path / "bad.gguf", **options)
    if damage is not None:
        damage(file)
    with pytest.raises(ValueError, match=rf"bad\.gguf' must be a GGUF file of a causal.*{reason}"):
        CausalLM.from_pretrained(str(file))


def test_missing_weights_are_listed(llm: CausalLM, tmp_path: Path) -> None:
    file = write_gguf(llm, tmp_path / "holes.gguf", without="ffn_down")
    with pytest.raises(ValueError, match=r"must match.*missing.*layers\.0\.mlp\.down_proj"):
        CausalLM.from_pretrained(str(file))


def test_which_file_is_meant(file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(
        ValueError, match=r"holds 2 \.gguf files \(a\.gguf, b\.gguf\); give the path"
    ):
        CausalLM.from_pretrained(str(tmp_path))
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ValueError, match=r"or a \.gguf file, got the file '.*model\.onnx'"):
        CausalLM.from_pretrained(str(tmp_path / "model.onnx"))


def test_the_missing_package_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hdvl.gguf.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the package gguf; .*pip install 'hdvl\[gguf\]'"):
        CausalLM.from_pretrained(str(file))
