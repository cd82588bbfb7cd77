"""The configured templates are the published ones."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hdvl.config import CONF_DIR, build
from hdvl.llms import CausalLM, build_tokenizer
from hdvl.protocols import Message, Template
from hdvl.templates import ChatML, Hermes2, Plain, TokenizerTemplate, Xverse

QWEN_VL = ChatML(
    numbering="Picture {k}: ", image_token="<imgpad>", image_prefix="<img>", image_suffix="</img>"
)


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("chatml", ChatML()),
        ("hermes2", Hermes2()),
        ("xverse", Xverse()),
        ("plain", Plain()),
        ("qwen_vl", QWEN_VL),
    ],
)
def test_files_say_what_the_classes_do(name: str, template: Any) -> None:
    built = build(OmegaConf.load(CONF_DIR / "template" / f"{name}.yaml"))
    assert isinstance(built, Template)
    assert built == template


def test_the_tokenizers_own_comes_from_the_llms_folder(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    numbers = {"model_type": "qwen2", "num_key_value_heads": 2, "intermediate_size": 16, **shape}
    CausalLM.from_config(config=numbers, tokenizer=tokenizer).model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = OmegaConf.create(
        {
            name: OmegaConf.load(CONF_DIR / name / f"{choice}.yaml")
            for name, choice in (("llm", "pretrained"), ("template", "tokenizer"))
        }
    )
    config.llm.path = str(tmp_path)
    template = build(config.template)
    assert isinstance(template, TokenizerTemplate)
    assert build(config.llm).tokenizer.chat_template == template.chat_template
    text = template.render([Message("user", "a"), Message("assistant", "b")]).text
    assert text == "a<|im_end|>b<|im_end|>"
