"""The configured templates are the published ones."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hdvl.config import CONF_DIR, build, compose
from hdvl.llms import CausalLM, build_tokenizer
from hdvl.protocols import Message, Template
from hdvl.templates import ChatML, Hermes2, Norm1000, Plain, TokenizerTemplate, Xverse

QWEN_IMAGES: dict[str, Any] = {
    "image_token": "<imgpad>",
    "image_prefix": "<img>",
    "image_suffix": "</img>",
    "boxes": Norm1000(quads=True),
}
QWEN_VL = ChatML(
    numbering="Picture {k}: ",
    extra_stop=("<|im_start|>",),
    control_text="letters",
    window=6144,
    **QWEN_IMAGES,
)
QWEN_VL_BASE = Plain(user_end="", image_separator="", **QWEN_IMAGES)


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("chatml", ChatML()),
        ("hermes2", Hermes2()),
        ("xverse", Xverse()),
        ("plain", Plain()),
        ("qwen_vl", QWEN_VL),
        ("qwen_vl_base", QWEN_VL_BASE),
    ],
)
def test_files_say_what_the_classes_do(name: str, template: Any) -> None:
    built = build(OmegaConf.load(CONF_DIR / "template" / f"{name}.yaml"))
    assert isinstance(built, Template)
    assert built == template


@pytest.mark.slow
def test_system_prompts_have_names() -> None:
    """As published: the default first, the others as choices of their own."""

    def system(choice: str) -> str:
        return str(build(compose(f"template={choice}").template).system)

    assert system("qwen_vl") == "You are a helpful assistant."
    assert system("hermes2") == "Answer the questions."
    assert system("hermes2_v2").startswith("你是由上海人工智能实验室联合商汤科技开发的书生")
    assert system("hermes2_v2").endswith("英文名叫InternVL, 是一个有用无害的人工智能助手。")
    assert system("xverse").startswith("你是元象开发的具有图文问答能力的XChat")
    assert system("xverse_eval") == system("qwen_vl_base") == ""
    chosen = build(compose("template=hermes2_v2").template)
    assert chosen == Hermes2(system=chosen.system)


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
