"""The plug-in for lmms-eval, against stand-ins for the few names of lmms-eval that it uses."""

import importlib
import sys
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from hdvl.inference import Pipeline
from tests.tiny_model import tiny_vlm


@dataclass
class Manifest:
    model_id: str
    chat_class_path: str


@dataclass
class Tokens:
    input_tokens: int
    output_tokens: int


@dataclass
class Result:
    text: str
    token_counts: Tokens


@dataclass
class Chat:
    messages: list[Any] = field(default_factory=list)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, imported with the stand-ins."""
    names: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {
            "GenerationResult": Result,
            "Instance": Any,
            "TokenCounts": Tokens,
        },
        "lmms_eval.api.model": {"lmms": type("lmms", (), {})},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
        "lmms_eval.protocol": {"ChatMessages": Chat},
    }
    for name, values in names.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "hdvl.integrations.lmms_eval", raising=False)
    yield importlib.import_module("hdvl.integrations.lmms_eval")
    sys.modules.pop("hdvl.integrations.lmms_eval", None)


def turn(*parts: Any, role: str = "user") -> Any:
    found = [
        SimpleNamespace(type="text", text=part)
        if isinstance(part, str)
        else SimpleNamespace(type="image", url=part)
        for part in parts
    ]
    return SimpleNamespace(role=role, content=found)


def test_turns_and_options(plugin: Any) -> None:
    image = Image.new("RGB", (50, 40))
    system, user = plugin.messages_of(
        Chat([turn("Be brief.", role="system"), turn("See ", image, " now?")])
    )
    assert (
        system.text == "Be brief." and user.text == "See <image> now?" and user.images == (image,)
    )
    video = SimpleNamespace(role="user", content=[SimpleNamespace(type="video", url="a.mp4")])
    with pytest.raises(ValueError, match="answers questions about images, got video"):
        plugin.messages_of(Chat([video]))
    assert plugin.options_of({"until": "\n"}) == {"max_new_tokens": 256, "stop": ["\n"]}
    drawn = plugin.options_of({"max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9})
    assert drawn["do_sample"] and drawn["top_p"] == 0.9 and drawn["max_new_tokens"] == 5
    with pytest.raises(ValueError, match="no beam search"):
        plugin.options_of({"num_beams": 3})


def test_answers_come_in_order_with_their_tokens(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipeline(model=tiny_vlm())
    monkeypatch.setattr(plugin, "load", lambda *given, **options: pipe)
    model = plugin.HdvlModel(checkpoint="x", device="cpu", batch_size="2")
    assert model.is_simple is False
    images = [Image.new("RGB", (50 + 9 * n, 40), (n, 50, 90)) for n in range(3)]
    model.task_dict = {"t": {"test": images}}

    def messages(image: Any) -> list[Any]:
        return [turn(image, "What?")]

    requests = [
        SimpleNamespace(args=("", messages, {"max_new_tokens": 3 + n % 2}, n, "t", "test"))
        for n in range(3)
    ]
    found = model.generate_until(requests)
    for n, result in enumerate(found):
        alone = pipe.chat("What?", images=[images[n]], max_new_tokens=3 + n % 2)
        assert result.text == alone.text
        counts = Tokens(alone.numbers.prompt_tokens, alone.numbers.new_tokens)
        assert result.token_counts == counts
    for refused in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until"):
            refused([])
    with pytest.raises(ValueError, match=r"model_args must be of checkpoint, .* got ckpt"):
        plugin.HdvlModel(ckpt="x")


def test_the_entry_point_is_declared(plugin: Any) -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'hdvl = "hdvl.integrations.lmms_eval:manifest"' in text
    path = plugin.manifest().chat_class_path
    module, _, name = path.rpartition(".")
    assert getattr(sys.modules[module], name).is_simple is False
    for point in entry_points(group="lmms_eval.models"):
        assert point.name != "hdvl" or point.value == "hdvl.integrations.lmms_eval:manifest"
