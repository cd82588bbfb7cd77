"""Untrusted folders are data: no code in them runs, and one error gives the reason."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import hdvl
from hdvl.checkpoints import load_folder, save_folder
from hdvl.checkpoints.importers import convert, load_published
from hdvl.checkpoints.nodes import Node, assemble, marked, unmarked
from hdvl.encoders.weights import find_weight_file, read_tensors
from hdvl.llms import build_tokenizer, load_tokenizer, save_tokenizer
from hdvl.training.run import resumed
from hdvl.training.start import started_from
from tests.native_models import internvl, llava_next
from tests.tiny_model import NODE, tiny_vlm

CANARY = "canary_of_untrusted_folders"
SHELL = "asyncio.create_subprocess_shell"


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that must not be imported, and a file that must not appear."""
    (tmp_path / f"{CANARY}.py").write_text(
        "class Part:\n    pass\n\ndef touch(*_, **__):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop(CANARY, None)
    yield
    assert CANARY not in sys.modules, "code from outside was imported"
    assert not (tmp_path / "ran").exists(), "code from the folder ran"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of a saved model, to be tampered with."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def put(node: Any, place: str, value: Any) -> None:
    """Put ``value`` at the dotted ``place``."""
    *path, last = place.split(".")
    for key in path:
        node = node.setdefault(key, {})
    node[last] = value


def tamper(folder: Path, **changes: Any) -> Path:
    """``config.yaml`` with values at dotted places (written ``a__b``)."""
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for place, value in changes.items():
        put(config, place.replace("__", "."), value)
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def running(tmp_path: Path) -> dict[str, Any]:
    """A node that makes a shell write a file, without any name that Hydra refuses."""
    command = f"touch {tmp_path / 'ran'}"
    return {"_target_": "asyncio.run", "_args_": [{"_target_": SHELL, "_args_": [command]}]}


FOREIGN = [
    ("asyncio.run", {}),
    ("asyncio.create_subprocess_shell", {"cmd": "touch {ran}"}),
    ("pathlib.Path.touch", {"self": "{ran}"}),
    ("builtins.open", {"file": "{ran}", "mode": "w"}),
    ("builtins.exec", {"_args_": ["open('{ran}', 'w')"]}),
    ("os.mkdir", {"path": "{ran}"}),
    ("os.system", {"command": "touch {ran}"}),
    ("subprocess.run", {"args": ["touch", "{ran}"]}),
    ("shutil.copyfile", {"src": "/etc/hostname", "dst": "{ran}"}),
    ("runpy.run_path", {"path_name": "{ran}"}),
    ("importlib.import_module", {"name": CANARY}),
    ("torch.load", {"f": "{ran}", "weights_only": False}),
    ("torch.save", {"obj": 1, "f": "{ran}"}),
    ("numpy.load", {"file": "{ran}", "allow_pickle": True}),
    ("urllib.request.urlopen", {"url": "http://127.0.0.1:9/"}),
    ("pickle.loads", {"_args_": ["x"]}),
    ("functools.partial", {"_args_": ["x"]}),
    ("hydra.utils.instantiate", {"config": {}}),
    (f"{CANARY}.Part", {}),
    (f"{CANARY}.touch", {"_partial_": True}),
    ("transformers.AutoModel.from_pretrained", {"pretrained_model_name_or_path": "x/y"}),
    ("hdvl.load", {"source": "x"}),
    ("hdvl.config.build", {"node": {}}),
    ("hdvl.config.sys.exit", {}),
    ("hdvl.config.Path.touch", {"self": "{ran}"}),
    ("hdvl.images.read_image", {"source": "/etc/hostname"}),
    ("hdvl.llms.read_texts", {"path": "/etc/hostname"}),
    ("hdvl.llms.build_tokenizer", {"vocab_size": 100_000_000}),
    ("hdvl.llms.os.system", {"command": "touch {ran}"}),
    ("hdvl.llms.tokenizers.Path.touch", {"self": "{ran}"}),
    ("hdvl.llms.CausalLM.from_pretrained", {"path": "owner/name"}),
    ("hdvl.llms.CausalLM.__init__.__globals__", {}),
    ("hdvl.templates.TokenizerTemplate.from_pretrained", {"path": "owner/name"}),
    ("hdvl.encoders.weights.read_tensors", {"path": "/etc/hostname"}),
    ("hdvl.encoders.timm.sys.exit", {}),
    ("hdvl.model.torch.load", {"f": "{ran}", "weights_only": False}),
    ("hdvl.model.VLM.load_state_dict", {}),
    ("hdvl.checkpoints.load_folder", {"folder": "x"}),
    ("hdvl.bridges.mlp.nn.Linear", {"in_features": 1, "out_features": 1}),
    ("hdvl_parts.Bridge", {}),
    ("HDVL.bridges.MLP", {}),
]
PLACES = [
    "model",
    "model.tiler",
    "model.tiler.tile_size",
    "model.encoder",
    "model.encoder.width",
    "model.bridge",
    "model.merger",
    "model.llm",
    "model.llm.tokenizer",
    "model.llm.config",
    "model.llm.config.rope_parameters",
    "model.llm.stop_ids",
    "model.template",
    "model.template.boxes",
    "model.encode_chunk",
    "model.surplus.deep.deeper",
]


@pytest.mark.slow_beyond(8)
@pytest.mark.parametrize(("target", "arguments"), FOREIGN, ids=[name for name, _ in FOREIGN])
def test_what_is_no_part_is_refused_by_name(
    target: str, arguments: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    written = json.dumps({"_target_": target, **arguments}).replace("{ran}", str(tmp_path / "ran"))
    tamper(folder, model__bridge=json.loads(written))
    with pytest.raises(ValueError) as caught:
        hdvl.load(folder)
    said = str(caught.value)
    assert f"config.yaml names {target}, which is not a part of hdvl, at model.bridge" in said
    foreign = target.split(".")[0] not in ("hdvl", *sys.stdlib_module_names)
    assert (f'allow=["{target.split(".")[0]}"]' in said) == foreign


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wrap", [lambda node: node, lambda node: [{"x": [node]}]])
def test_unknown_targets_are_refused_at_every_position(
    place: str, wrap: Callable[[Any], Any], folder: Path, tmp_path: Path
) -> None:
    tamper(folder, **{place.replace(".", "__"): wrap(running(tmp_path))})
    with pytest.raises(
        ValueError, match=r"config\.yaml names asyncio\.run, which is not a part of hdvl"
    ):
        load_folder(folder)


@pytest.mark.slow_beyond(6)
@pytest.mark.parametrize("target", [7, None, "", " ", ["a"], {"b": 1}, True, "hdvl..bridges.MLP",
                                    "hdvl.bridges.MLP ", "hdvl.bridges:MLP", "${oc.env:HOME}",
                                    "hdvl.bridges.MLP\n", "hdvl.bridges.ＭLP", "x" * 100_000])  # fmt: skip
def test_a_target_that_is_no_name(target: Any, folder: Path) -> None:
    tamper(folder, model__bridge__surplus={"_target_": target})
    with pytest.raises(
        ValueError, match=r"config\.yaml names .{1,260}at model\.bridge\.surplus|not a part"
    ):
        load_folder(folder)


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_", "_unknown_"])
def test_keys_without_a_meaning(key: str, folder: Path) -> None:
    tamper(folder, **{f"model__bridge__{key}": [1]}) if key == "_args_" else None
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["bridge"][key] = []
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        ValueError,
        match=rf"config\.yaml uses {key} at model\.bridge, which is not allowed in a model folder",
    ):
        load_folder(folder)


def test_partial_is_true_or_false(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["bridge"]["_partial_"] = "yes please"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"must have true or false as model\.bridge\._partial_"):
        load_folder(folder)


TIMM = {"_target_": "hdvl.encoders.TimmEncoder.from_pretrained", "name": "vit_tiny_patch16_224"}
CLIP = {"_target_": "hdvl.encoders.TransformersEncoder", "name": "clip_vision_model"}
READING = [
    ({**TIMM, "weights": "hub:owner/name"}, r"model\.encoder\.weights='hub:owner/name'"),
    ({**TIMM, "weights": "/etc/hostname"}, r"model\.encoder\.weights='/etc/hostname'"),
    ({**TIMM, "weights": {"a": 1}}, r"model\.encoder\.weights="),
    ({**TIMM, "name": "hf-hub:owner/name"}, r"model\.encoder\.name='hf-hub:owner/name'"),
    ({**TIMM, "name": "local-dir:/tmp"}, r"model\.encoder\.name='local-dir:/tmp'"),
    ({**TIMM, "config": {"checkpoint_path": "/x"}}, r"model\.encoder\.config\.checkpoint_path='/x'"),
    ({**TIMM, "config": {"pretrained": True}}, r"model\.encoder\.config\.pretrained=True"),
    ({**TIMM, "config": {"pretrained_cfg": {"url": "http://x"}}}, r"config\.pretrained_cfg="),
    ({**CLIP, "config": {"attn_implementation": "a/b"}}, r"config\.attn_implementation='a/b'"),
    ({**CLIP, "config": {"x": {"auto_map": {"A": "b.C"}}}}, r"config\.x\.auto_map="),
    ({**CLIP, "config": {"backbone": "https://x.invalid"}}, r"config\.backbone='https://x\.invalid'"),
]  # fmt: skip


@pytest.mark.parametrize(("encoder", "said"), READING, ids=[said for _, said in READING])
def test_a_part_that_would_read_from_elsewhere(
    encoder: dict[str, Any], said: str, folder: Path
) -> None:
    tamper(folder, model__encoder=encoder)
    with pytest.raises(
        ValueError, match=rf"config\.yaml says .*{said}.*, but a model folder reads nothing"
    ):
        load_folder(folder)


@pytest.mark.slow_beyond(5)
@pytest.mark.parametrize("path", ["../tokenizer", "/etc", "~/x", "a/../../b", "..\\x", "C:\\x", "", ".",
                                  7, None, ["tokenizer"], "owner/../../name"])  # fmt: skip
def test_a_tokenizer_outside_of_the_folder(path: Any, folder: Path) -> None:
    tamper(folder, model__llm__tokenizer__path=path)
    with pytest.raises(ValueError, match=r"config\.yaml must name a folder inside the model folder as "
                       r"model\.llm\.tokenizer\.path, got"):  # fmt: skip
        load_folder(folder)


def test_text_is_never_interpolated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "told")
    tamper(folder, model__template__system="a ${oc.env:SECRET} ${model.tiler} b")
    assert load_folder(folder).template.system == "a ${oc.env:SECRET} ${model.tiler} b"
    tamper(folder, model__tiler="${oc.env:SECRET}")
    with pytest.raises(ValueError, match=r"must have a mapping with a _target_ as model\.tiler"):
        load_folder(folder)


# --- packages that the caller allows ------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of the caller's with a part of its own."""
    (tmp_path / "mypkg_of_folders").mkdir()
    (tmp_path / "mypkg_of_folders" / "__init__.py").write_text(
        "import os\nfrom os import system\nfrom hdvl.tilers import SlidingWindow\n\n\n"
        "class Tiler(SlidingWindow):\n    pass\n"
    )
    yield "mypkg_of_folders"
    sys.modules.pop("mypkg_of_folders", None)


@pytest.mark.slow
def test_an_allowed_package_is_imported(mine: str, folder: Path) -> None:
    tiler = {**NODE["tiler"], "_target_": f"{mine}.Tiler"}
    tamper(folder, model__tiler=tiler)
    with pytest.raises(ValueError, match=rf'load with allow=\["{mine}"\]'):
        load_folder(folder)
    assert mine not in sys.modules
    for allow in ([mine], mine):
        vlm = hdvl.load(folder, allow=allow).model
        assert type(vlm.tiler).__module__ == mine
    saved = save_folder(vlm, folder.parent / "again", {"model": {**NODE, "tiler": tiler}})
    assert f"allow=['{mine}']" in (saved / "README.md").read_text()
    assert load_folder(saved, allow=mine)


@pytest.mark.parametrize(
    "name", ["os.system", "system", "os.path.join", "Tiler.__init__.__globals__.get"]
)
def test_what_an_allowed_package_imports_is_not_allowed(name: str, mine: str, folder: Path) -> None:
    tamper(folder, model__tiler={"_target_": f"{mine}.{name}", "command": "true"})
    with pytest.raises(
        ValueError,
        match=rf"config\.yaml names {mine}\.{name} .*which is not defined in an allowed package",
    ):
        load_folder(folder, allow=mine)


@pytest.mark.parametrize("allow", [["a b"], ["*"], [""], "a.*", "a..b"])
def test_allow_lists_names(allow: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="allow must list names of packages, such as mypkg, got"):
        load_folder(folder, allow=allow)


# --- broken and hostile files -------------------------------------------------------------------

ALIASES = "\n".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 30))
MERGES = "\n".join(f"c{n}: &c{n} {{<<: [*c{n - 1}, *c{n - 1}], k{n}: 1}}" for n in range(1, 60))
YAMLS = [
    (f"format: 1\nb0: &b0 [x]\n{ALIASES}\nmodel: *b29", "must stand for at most 1000000 values"),
    (
        f"format: 1\nc0: &c0 {{a: 1}}\n{MERGES}\nmodel: *c59",
        "must stand for at most 1000000 values",
    ),
    ("format: 1\nmodel: &a [*a]", "an alias in it holds itself"),
    (f"format: 1\nmodel: {'[' * 5000}{']' * 5000}", "nested at most 64 levels"),
    (f"format: 1\nmodel: {'[' * 70}{']' * 70}", "nested at most 64 levels"),
    (f"format: 1\nmodel: 1{':59' * 50_000}", "must hold shorter numbers"),
    ("format: 1\nmodel: !!python/object/apply:os.system [true]", "must be plain YAML"),
    ("format: 1\nmodel: !!python/name:os.system", "must be plain YAML"),
    ("format: 1\nmodel: {a: [", "must be plain YAML"),
    ("format: 1\nmodel: {[a]: b, {c: d}: e}", "must be plain YAML"),
    ("format: 1\nmodel: @x", "must be plain YAML"),
    ("format: 1\nmodel: 5", "must have a mapping with a _target_ as model"),
    ("format: 1\nmodel: {_target_: hdvl.tilers.Squash}", r"must have hdvl\.model\.VLM as model"),
    ("format: 1\nmodel: {_target_: hdvl.model.VLM, tiler: {}}", r"as model\.tiler, model\.encoder"),
    ("format: [1]\nmodel: {}", r"has format \[1\]"),
    ("[1, 2]", "must hold a config.yaml with format and model"),
    ("", "must hold a config.yaml with format and model"),
    ("x" * 3_000_000, "must have at most 2000000 bytes"),
]


@pytest.mark.slow_beyond(8)
@pytest.mark.parametrize(("text", "said"), YAMLS, ids=[said for _, said in YAMLS])
def test_yaml_that_is_no_configuration(text: str, said: str, folder: Path) -> None:
    (folder / "config.yaml").write_text(text)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=said) as caught:
        hdvl.load(folder)
    assert str(folder) in str(caught.value) and time.perf_counter() - begin < 5


def test_a_configuration_that_is_no_text(folder: Path) -> None:
    (folder / "config.yaml").write_bytes(b"format: 1\nmodel: \xff\xfe")
    with pytest.raises(ValueError, match=r"config\.yaml' must be UTF-8"):
        load_folder(folder)


@pytest.mark.parametrize("part", ["tiler", "encoder", "bridge", "merger", "llm", "template"])
def test_a_part_that_is_missing(part: str, folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["model"][part]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        ValueError, match=rf"config\.yaml must have a mapping with a _target_ as model\.{part}"
    ):
        load_folder(folder)


NUMBERS = [
    ("model__encoder__depth", 10**30, r"must have at most 100000 as model\.encoder\.depth"),
    ("model__llm__config__num_hidden_layers", 10**9, r"config\.num_hidden_layers, got 1000000000"),
    ("model__tiler__max_tiles", 10**30, r"must have at most \d+ as model\.tiler\.max_tiles"),
    ("model__bridge__dpth", 2, r"model\.bridge of .*config\.yaml does not fit hdvl\.bridges\.MLP"),
    ("model__bridge__depth", "two", r"model of .*config\.yaml cannot be built"),
    ("model__encoder__width", "wide", r"model\.encoder of .*config\.yaml cannot be built"),
    ("model__encoder", {"_target_": "hdvl.templates.ChatML"}, r"model of .*cannot be built"),
    ("model__llm__config__model_type", "nothing", r"model\.llm of .*cannot be built"),
    ("model__llm__config__hidden_size", "x", r"model\.llm of .*cannot be built"),
    ("model__llm__config", None, r"model\.llm of .*cannot be built"),
    ("model__image_token_id", "x", r"model of .*cannot be built"),
]


@pytest.mark.slow_beyond(4)
@pytest.mark.parametrize(("place", "value", "said"), NUMBERS, ids=[place for place, *_ in NUMBERS])
def test_values_of_a_wrong_kind(place: str, value: Any, said: str, folder: Path) -> None:
    tamper(folder, **{place: value})
    with pytest.raises(ValueError, match=said):
        load_folder(folder)


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize(
    ("kind", "said"),
    [(torch.int64, "I64"), (torch.bool, "BOOL"), (torch.float64, "F64"), (torch.uint8, "U8"),
     (torch.float8_e4m3fn, "F8_E4M3")],
)  # fmt: skip
def test_weights_of_another_type(kind: torch.dtype, said: str, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["merger.newline"] = state["merger.newline"].to(kind)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"model\.safetensors: merger\.newline is {said} for torch\.float32"
    ):
        load_folder(folder)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_reported_once(value: float, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["merger.newline"].view(-1)[3] = value
    save_file(state, folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"model\.safetensors hold NaN or infinite") as caught:
        load_folder(folder, check=False)
    assert len(caught) == 1 and "merger.newline" in str(caught[0].message)


OUTSIDE = [
    "../x.safetensors",
    "/etc/x.safetensors",
    "a/x.safetensors",
    "..\\x",
    "..",
    "C:x",
    7,
    None,
]


@pytest.mark.slow_beyond(6, every=4)
@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("reader", ["native", "published", "encoder"])
def test_an_index_names_files_beside_it(name: Any, reader: str, folder: Path, llava: Path) -> None:
    place = llava if reader == "published" else folder
    (place / "model.safetensors").rename(place.parent / "x.safetensors")
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"merger.newline": name}}))
    with pytest.raises(
        ValueError, match=r"index .*must (name files beside it, got|be JSON with a weight_map)"
    ):
        if reader == "encoder":
            read_tensors(find_weight_file(place, ["model.safetensors.index.json"]))
        else:
            hdvl.load(place)


@pytest.mark.slow_beyond(5)
@pytest.mark.parametrize("file", ["preprocessing.json", "tokenizer/tokenizer.json",
                                  "tokenizer/tokenizer_config.json"])  # fmt: skip
@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\x00", "5"])
def test_json_that_is_none(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=Path(file).name):
        load_folder(folder)


# --- tokenizers with code -----------------------------------------------------------------------

CODE = [{"AutoTokenizer": ["evil.Tokenizer", None]}, {"AutoTokenizer": "evil.Tokenizer"},
        ["evil.Tokenizer", None], {"AutoTokenizer": "owner/name--evil.Tokenizer"}]  # fmt: skip


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("fast", [True, False])
def test_a_tokenizer_with_code(
    code: Any, fast: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    place = folder / "tokenizer"
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Tokenizer: pass\n")
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": code}))
    if not fast:
        (place / "tokenizer.json").unlink()
    for load in (lambda: hdvl.load(folder), lambda: load_tokenizer(place)):
        with pytest.raises(ValueError, match=r"tokenizer_config\.json' names code by auto_map"):
            load()


@pytest.mark.parametrize("value", ["/etc/passwd", "../x.json"])
def test_a_tokenizer_that_names_files_elsewhere(value: str, folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_file": value}))
    with pytest.raises(ValueError, match=r"must name files beside it, got vocab_file="):
        load_folder(folder)


# --- published folders --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-NeXT and InternVL in the layout of transformers, with a tokenizer."""
    root = tmp_path_factory.mktemp("published")
    tokenizer = build_tokenizer(vocab_size=300)
    tokenizer.add_tokens(["<img>", "</img>", "<image>"], special_tokens=True)
    text, slot = {"vocab_size": len(tokenizer)}, len(tokenizer) - 1
    llava_next(text=text, image_token_index=slot).save_pretrained(root / "llava")
    internvl(text=text, image_token_id=slot).save_pretrained(root / "internvl")
    settings: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5]}
    sizes = {"llava": {}, "internvl": {"size": {"height": 28, "width": 28}}}
    for kind, size in sizes.items():
        save_tokenizer(tokenizer, root / kind)
        (root / kind / "preprocessor_config.json").write_text(json.dumps({**settings, **size}))
    return root


@pytest.fixture
def llava(published: Path, tmp_path: Path) -> Path:
    """A copy of the published LLaVA-NeXT, to be tampered with."""
    return Path(shutil.copytree(published / "llava", tmp_path / "llava"))


def edit(file: Path, place: str, value: Any) -> None:
    told = json.loads(file.read_text()) if file.is_file() else {}
    put(told, place, value)
    file.write_text(json.dumps(told))


VALUES = [
    ("config.json", "text_config.rope_parameters.surplus"),
    ("config.json", "text_config.surplus"),
    ("config.json", "vision_config.surplus"),
    ("config.json", "surplus"),
    ("config.json", "auto_map"),
    ("config.json", "text_config.hidden_size"),
    ("config.json", "vision_config.hidden_act"),
    ("config.json", "text_config"),
    ("config.json", "vision_config"),
    ("preprocessor_config.json", "image_mean"),
    ("preprocessor_config.json", "image_std"),
    ("preprocessor_config.json", "image_mean.0"),
    ("preprocessor_config.json", "size"),
    ("processor_config.json", "image_processor.image_mean"),
    ("generation_config.json", "eos_token_id"),
    ("tokenizer_config.json", "start_image_token"),
    ("tokenizer_config.json", "chat_template"),
    ("tokenizer_config.json", "surplus"),
    ("chat_template.json", "chat_template"),
]


PUBLISHED = ["llava", "internvl"]


def hostile(tmp_path: Path) -> list[Any]:
    """Values that would run code where they were taken for nodes."""
    return [
        running(tmp_path),
        {"_target_": f"{CANARY}.Part"},
        {"_target_": "hdvl.llms.read_texts", "path": "/etc/hostname"},
        [{"_target_": f"{CANARY}.Part"}],
    ]


def load_with(value: Any, file: str, place: str, source: Path, folder: Path) -> None:
    """Load a copy of ``source`` whose ``file`` holds ``value`` at ``place``."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    if place == "image_mean.0":
        edit(folder / file, "image_mean", [value, 0.5, 0.5])
    else:
        edit(folder / file, place, value)
    try:
        load_published(folder)
    except ValueError:
        assert "surplus" not in place, "a value that no model has means nothing"


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("number", range(len(VALUES)), ids=[place for _, place in VALUES])
def test_values_of_published_files_are_data(number: int, published: Path, tmp_path: Path) -> None:
    """Each key once, with kinds of folders and of values in turn."""
    values = hostile(tmp_path)
    kind = PUBLISHED[number % len(PUBLISHED)]
    load_with(values[number % len(values)], *VALUES[number], published / kind, tmp_path / kind)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "place"), VALUES)
@pytest.mark.parametrize("kind", PUBLISHED)
def test_every_value_at_every_place_is_data(
    kind: str, file: str, place: str, published: Path, tmp_path: Path
) -> None:
    for value in hostile(tmp_path):
        load_with(value, file, place, published / kind, tmp_path / kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_text_is_not_interpolated(
    kind: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "told")
    folder = Path(shutil.copytree(published / kind, tmp_path / kind))
    source = (
        "${oc.env:SECRET}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    edit(folder / "tokenizer_config.json", "chat_template", source)
    (folder / "chat_template.jinja").write_text(source)
    assert load_published(folder).template.chat_template == source
    native = convert(folder, tmp_path / "native")
    assert load_folder(native).template.chat_template == source


@pytest.mark.slow
def test_a_key_that_would_become_a_node_is_not_converted(llava: Path, tmp_path: Path) -> None:
    edit(llava / "config.json", "text_config.rope_parameters._target_", f"{CANARY}.Part")
    load_published(llava)
    with pytest.raises(
        ValueError, match=r"llm\.config\.rope_parameters is data with the key _target_"
    ):
        convert(llava, tmp_path / "native")
    assert not (tmp_path / "native").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", "[" * 100_000, "\x00", '{"model_type": "llava_next"}']
)
def test_published_json_that_is_none(text: str, llava: Path) -> None:
    (llava / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json|configuration of|llava"):
        hdvl.load(llava)


# --- runs ---------------------------------------------------------------------------------------


def test_a_start_from_an_untrusted_folder(folder: Path, tmp_path: Path) -> None:
    tamper(folder, model__tiler=running(tmp_path))
    with pytest.raises(ValueError, match=r"names asyncio\.run, which is not a part"):
        started_from({**NODE, "llm": {**NODE["llm"], "tokenizer": None}}, folder)


RUNS = [
    (
        {"callbacks": {"a": {"_target_": f"{CANARY}.Part"}}},
        rf"names {CANARY}\.Part, .*run\.callbacks\.a",
    ),
    ({"trainer": {"_target_": "asyncio.run"}}, r"names asyncio\.run"),
    ({"model": {"tiler": {"_target_": "${x}"}}}, r"at run\.model\.tiler, which is not a class"),
    ({"seed": "${oc.create:{_target_:asyncio.run}}"}, r"has the interpolation \$\{oc\.create"),
    ({"seed": "${oc.decode:'{_target_: asyncio.run}'}"}, r"has the interpolation \$\{oc\.decode"),
    ({"seed": "${${a}:x}"}, r"has the interpolation"),
    ({"model": {"_target_": "hdvl.model.VLM", "_args_": [1]}}, r"uses _args_ at run\.model"),
]


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize(("config", "said"), RUNS, ids=[said for _, said in RUNS])
def test_a_run_that_someone_else_wrote(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=rf"train\.yaml .*{said}"):
        resumed(tmp_path, {})


def test_a_run_with_a_custom_package(tmp_path: Path) -> None:
    config = {"seed": 0, "allow": ["os"], "a": {"_target_": "tests.tiny_model.tiny_vlm"}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r'load with allow=\["tests"\]'):
        resumed(tmp_path, {})
    assert resumed(tmp_path, {"seed": 3}, allow="tests")["allow"] == ["tests"]


# --- nodes --------------------------------------------------------------------------------------


def test_only_nodes_are_built() -> None:
    data = {"_target_": "os.getcwd"}
    assert assemble({"a": [data]}, source="x") == {"a": [data]}
    boxes = assemble(marked({"_target_": "hdvl.templates.Unit"}), source="x")
    assert assemble(Node({"_target_": "builtins.dict", "a": boxes, "b": data}), source="x") == {
        "a": boxes, "b": data
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"model\.b is data with the key _target_"):
        unmarked(Node({"_target_": "x", "b": data}))
    with pytest.raises(ValueError, match=r"names hdvl\.nothing, which cannot be imported"):
        assemble(Node({"_target_": "hdvl.nothing"}), source="x")


def test_the_caller_may_replace_a_part_by_anything(folder: Path, mine: str) -> None:
    pipe = hdvl.load(folder, tiler={**NODE["tiler"], "_target_": f"{mine}.Tiler"})
    assert type(pipe.tiler).__module__ == mine
    assert tiny_vlm().tiler.max_tiles == pipe.tiler.max_tiles
