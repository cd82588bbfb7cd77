"""Model folders: a saved model is loaded again from its folder alone, or one error gives the reason."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hdvl.checkpoints import is_model_folder, load_folder, native, read_config, save_folder
from hdvl.model import VLM
from hdvl.processor import Processor, collate
from hdvl.protocols import Message
from tests.tiny_model import NODE, tiny_node, tiny_vlm


def logits(vlm: VLM) -> Tensor:
    values = torch.arange(3 * 40 * 70, dtype=torch.int64).remainder(251).to(torch.uint8)
    image = values.reshape(40, 70, 3).numpy()
    sample = Processor.of(vlm)([Message("user", "What?", (image,))], add_generation_prompt=True)
    batch = collate([sample], pad_id=0)
    with torch.inference_mode():
        return vlm(batch.input_ids, batch.pixels, batch.plans).logits


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def rewrite(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)


def test_the_same_model_comes_back(tiny_folder: Path) -> None:
    before, after = tiny_vlm(), load_folder(tiny_folder)
    assert not after.training
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name
    assert torch.equal(logits(before), logits(after))
    assert [p.requires_grad for p in before.parameters()] == [
        p.requires_grad for p in after.parameters()
    ]
    assert all(value.device.type == "cpu" for value in (*after.parameters(), *after.buffers()))
    strides = {name: value.stride() for name, value in before.state_dict().items()}
    assert strides == {name: value.stride() for name, value in after.state_dict().items()}


def test_the_folder_has_a_card(tiny_folder: Path) -> None:
    assert {path.name for path in tiny_folder.iterdir()} == {
        "README.md",
        "config.yaml",
        "model.safetensors",
        "preprocessing.json",
        "tokenizer",
        "version.json",
    }
    config = yaml.safe_load((tiny_folder / "config.yaml").read_text())
    assert config["format"] == 1 and config["seed"] == 0
    assert config["model"]["tiler"] == NODE["tiler"]
    assert config["model"]["llm"]["config"]["vocab_size"] == len(tiny_vlm().llm.tokenizer)
    assert str(tiny_folder) not in (tiny_folder / "config.yaml").read_text()
    assert 'license: "Apache-2.0"' in (tiny_folder / "README.md").read_text()
    assert json.loads((tiny_folder / "version.json").read_text())["packages"]["torch"]
    assert is_model_folder(tiny_folder) and not is_model_folder(tiny_folder / "tokenizer")


def test_parts_repeated_beside_the_model_are_not_stored(tmp_path: Path) -> None:
    config = {"model": NODE, "tiler": NODE["tiler"], "seed": 3, "optimizer": {"lr": 0.1}}
    save_folder(tiny_vlm(), tmp_path / "m", config)
    stored = read_config(tmp_path / "m")
    assert set(stored) == {"format", "model", "seed", "optimizer"}


@pytest.mark.slow
def test_any_folder_name_and_no_network(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("no socket may be opened")

    folder = copy_of(tiny_folder, tmp_path / "目录 with spaces, =and [more]")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert torch.equal(logits(load_folder(folder)), logits(tiny_vlm()))


@pytest.mark.slow
def test_a_fresh_process_loads_it_with_sockets_blocked(tiny_folder: Path, tmp_path: Path) -> None:
    program = f"""
import os, socket
def refuse(*_, **__): raise SystemExit("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from hdvl.checkpoints import load_folder
vlm = load_folder({str(tiny_folder)!r})
print(sum(p.double().abs().sum().item() for p in vlm.parameters()))
"""
    online = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**online, "PYTHONPATH": str(Path(native.__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    total = sum(p.double().abs().sum().item() for p in tiny_vlm().parameters())
    assert float(done.stdout) == pytest.approx(total, rel=1e-12)


def test_shards_and_index(tmp_path: Path) -> None:
    vlm = tiny_vlm()
    folder = save_folder(vlm, tmp_path / "m", {"model": NODE}, max_shard=20_000)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == shards
    assert torch.equal(logits(load_folder(folder)), logits(vlm))
    (folder / shards[1]).unlink()
    with pytest.raises(ValueError, match=rf"lacks {shards[1]}; copy all files of the folder"):
        load_folder(folder)


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings(tmp_path: Path, tied: bool) -> None:
    numbers = {**NODE["llm"]["config"], "tie_word_embeddings": tied}
    node = tiny_node(llm={"config": numbers})
    vlm = tiny_vlm(node)
    folder = save_folder(vlm, tmp_path / "m", {"model": node})
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert ("llm.model.lm_head.weight" in names) is not tied
    again = load_folder(folder)
    table, head = again.llm.model.get_input_embeddings(), again.llm.model.get_output_embeddings()
    assert (table.weight is head.weight) is tied
    assert torch.equal(logits(again), logits(vlm))


@pytest.mark.slow
def test_weights_untied_by_hand_are_refused(tmp_path: Path) -> None:
    vlm = tiny_vlm()
    head = vlm.llm.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach() + 1)
    with pytest.raises(ValueError, match=r"config\['model'\] does not: surplus: .*lm_head"):
        save_folder(vlm, tmp_path / "m", {"model": NODE})
    assert list(tmp_path.iterdir()) == []


def test_weights_tied_by_hand_are_refused(tmp_path: Path) -> None:
    node = tiny_node(llm={"config": {**NODE["llm"]["config"], "tie_word_embeddings": False}})
    vlm = tiny_vlm(node)
    vlm.llm.model.get_output_embeddings().weight = vlm.llm.model.get_input_embeddings().weight
    with pytest.raises(ValueError, match=r"missing: .*lm_head"):
        save_folder(vlm, tmp_path / "m", {"model": node})


def test_stored_dtypes_come_back(tmp_path: Path) -> None:
    vlm = tiny_vlm()
    vlm.llm.to(torch.bfloat16)
    again = load_folder(save_folder(vlm, tmp_path / "m", {"model": NODE}))
    assert {p.dtype for p in again.llm.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in again.encoder.parameters()} == {torch.float32}


def test_all_wrong_keys_are_listed_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_folder, tmp_path / "m")

    def change(state: dict[str, Tensor]) -> None:
        del state["merger.newline"], state["llm.model.model.norm.weight"]
        state["extra.weight"] = torch.zeros(1)
        state["encoder.layers.0.weight"] = torch.zeros(8, 3, 2, 2)

    rewrite(folder, change)
    with pytest.raises(ValueError, match=r"weights must fit the model") as caught:
        load_folder(folder)
    said = str(caught.value)
    assert "missing: llm.model.model.norm.weight, merger.newline" in said
    assert "surplus: extra.weight" in said
    assert "misshapen: encoder.layers.0.weight (8, 3, 2, 2) for (4, 3, 3, 3)" in said


def test_damaged_weights(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_folder, tmp_path / "m")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors' are damaged or truncated"):
        load_folder(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"has no weights: neither model.safetensors nor"):
        load_folder(folder)


@pytest.mark.slow
def test_a_tensor_stored_twice_is_refused(tmp_path: Path) -> None:
    folder = save_folder(tiny_vlm(), tmp_path / "m", {"model": NODE}, max_shard=20_000)
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    save_file({**load_file(second), **load_file(first)}, second)
    with pytest.raises(ValueError, match="is stored twice"):
        load_folder(folder)


def test_what_is_no_model_folder(tmp_path: Path, tiny_folder: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(ValueError, match=r"must hold a config.yaml with format and model"):
            load_folder(folder)
    newer = copy_of(tiny_folder, tmp_path / "m")
    config = (newer / "config.yaml").read_text()
    (newer / "config.yaml").write_text(config.replace("format: 1", "format: 99"))
    with pytest.raises(ValueError, match="has format 99, this hdvl reads 1; install a newer hdvl"):
        load_folder(newer)


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ({"initialise": None}, r"initialise of .*config\.yaml is called init_from now"),
        (
            {"stages": [{"optimizer": {"shape": "cosine"}}]},
            r"stages\.0\.optimizer\.shape of .*config\.yaml is called stages\.0\.optimizer\.schedule now",
        ),
    ],
)
def test_old_names_of_keys(
    old: dict[str, Any], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_folder, tmp_path / "old")
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**plain, **old}))
    with pytest.raises(ValueError, match=said):
        load_folder(folder)


@pytest.mark.slow
def test_save_refuses(tmp_path: Path) -> None:
    vlm = tiny_vlm()
    with pytest.raises(ValueError, match=r"config must have the node model, got keys \['seed'\]"):
        save_folder(vlm, tmp_path / "m", {"seed": 0})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match="contains files that are no model"):
        save_folder(vlm, tmp_path / "mine", {"model": NODE})
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    with pytest.raises(ValueError, match="is a file; give another name"):
        save_folder(vlm, tmp_path / "mine" / "thesis.txt", {"model": NODE})
    with pytest.raises(ValueError, match="max_shard must be at least 1 byte, got 0"):
        save_folder(vlm, tmp_path / "m", {"model": NODE}, max_shard=0)
    node = tiny_node(llm={"config": {**NODE["llm"]["config"], "num_hidden_layers": 3}})
    # The LLM's configuration is read from the model, so only the other parts can disagree.
    assert load_folder(save_folder(vlm, tmp_path / "m", {"model": node}))
    wider = tiny_node(encoder={"width": 24})
    with pytest.raises(ValueError, match=r"config\['model'\] does not: .*misshapen: .*bridge"):
        save_folder(vlm, tmp_path / "w", {"model": wider})


def test_adapters_are_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    vlm = tiny_vlm()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), vlm.llm)
    with pytest.raises(ValueError, match=r"must have no adapters, got \d+ such as llm.*merge_lora"):
        save_folder(vlm, tmp_path / "m", {"model": NODE})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_is_replaced_whole(tmp_path: Path) -> None:
    folder = save_folder(tiny_vlm(seed=0), tmp_path / "m", {"model": NODE}, max_shard=20_000)
    save_folder(tiny_vlm(seed=1), folder, {"model": NODE})
    assert torch.equal(logits(load_folder(folder)), logits(tiny_vlm(seed=1)))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert len(list(folder.glob("*.safetensors"))) == 1  # nothing of the old one is left


@pytest.mark.slow
def test_a_loaded_model_can_be_saved_over_itself(tmp_path: Path) -> None:
    folder = save_folder(tiny_vlm(), tmp_path / "m", {"model": NODE})
    vlm = load_folder(folder)
    save_folder(vlm, folder, read_config(folder))
    assert torch.equal(logits(load_folder(folder)), logits(tiny_vlm()))


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("failing", ["write_shards", "_check_rebuilds"])
def test_a_failed_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    folder = save_folder(tiny_vlm(), tmp_path / "m", {"model": NODE})

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(native, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        save_folder(tiny_vlm(seed=1), folder, {"model": NODE})
    assert torch.equal(logits(load_folder(folder)), logits(tiny_vlm()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.slow
def test_a_failed_rename_puts_the_old_model_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_folder(tiny_vlm(), tmp_path / "m", {"model": NODE})
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        save_folder(tiny_vlm(seed=1), folder, {"model": NODE})
    assert torch.equal(logits(load_folder(folder)), logits(tiny_vlm()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.slow
def test_an_llm_from_a_folder_is_stored_by_its_configuration(tmp_path: Path) -> None:
    vlm = tiny_vlm()
    source = tmp_path / "published"
    vlm.llm.model.save_pretrained(source)
    vlm.llm.tokenizer.save_pretrained(source)
    node = {**NODE, "llm": {"_target_": "hdvl.llms.CausalLM.from_pretrained", "path": str(source)}}
    saved = save_folder(tiny_vlm(node), tmp_path / "m", {"model": node})
    stored = read_config(saved)["model"]["llm"]
    assert stored["_target_"] == "hdvl.llms.CausalLM.from_config"
    assert str(tmp_path) not in (saved / "config.yaml").read_text()
    shutil.rmtree(source)
    again = load_folder(saved)
    for name, value in vlm.llm.state_dict().items():
        assert torch.equal(value, again.llm.state_dict()[name]), name


@pytest.mark.slow
def test_an_encoder_from_a_file_is_stored_without_it(tmp_path: Path) -> None:
    import timm

    name, config = "vit_tiny_patch16_224", {"embed_dim": 32, "depth": 1, "num_heads": 2}
    torch.manual_seed(5)
    weights = timm.create_model(name, num_classes=0, **config)
    save_file(weights.state_dict(), tmp_path / "vit.safetensors")
    encoder = {
        "_target_": "hdvl.encoders.timm.TimmEncoder.from_pretrained",
        "name": name,
        "config": config,
        "tile_size": 32,
        "weights": str(tmp_path / "vit.safetensors"),
    }
    node = {**NODE, "encoder": encoder}
    vlm = tiny_vlm(node)
    saved = save_folder(vlm, tmp_path / "m", {"model": node})
    assert read_config(saved)["model"]["encoder"]["weights"] is None
    (tmp_path / "vit.safetensors").unlink()
    again = load_folder(saved)
    for key, value in vlm.encoder.state_dict().items():
        assert torch.equal(value, again.encoder.state_dict()[key]), key
    assert torch.equal(logits(again), logits(vlm))


@pytest.mark.slow
def test_a_template_from_a_tokenizer_is_written_out(tmp_path: Path) -> None:
    source = tmp_path / "published"
    tokenizer = tiny_vlm().llm.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(source)
    template = {
        "_target_": "hdvl.templates.TokenizerTemplate.from_pretrained",
        "path": str(source),
    }
    node = {**NODE, "template": template}
    vlm = tiny_vlm(node)
    saved = save_folder(vlm, tmp_path / "m", {"model": node})
    shutil.rmtree(source)
    assert str(tmp_path) not in (saved / "config.yaml").read_text()
    assert load_folder(saved).template == vlm.template


def test_a_part_that_reads_a_path_is_refused(tmp_path: Path) -> None:
    encoder = {"_target_": "somebody.Encoder.from_pretrained", "path": "weights/there"}
    node = {**NODE, "encoder": {**encoder}}
    with pytest.raises(ValueError, match=r"but model.encoder.path=weights/there would be read"):
        save_folder(tiny_vlm(), tmp_path / "m", {"model": node})


def test_overrides(tiny_folder: Path) -> None:
    vlm = load_folder(tiny_folder, overrides={"tiler": {"max_tiles": 2}, "encode_chunk": 3})
    assert vlm.tiler.max_tiles == 2 and vlm.encode_chunk == 3
    squash = {"_target_": "hdvl.tilers.Squash", "tile_size": 32}
    assert type(load_folder(tiny_folder, overrides={"tiler": squash}).tiler).__name__ == "Squash"
    with pytest.raises(
        ValueError, match=r"model has no tiler.max_tile to override, did you mean max_t"
    ):
        load_folder(tiny_folder, overrides={"tiler": {"max_tile": 2}})
    with pytest.raises(ValueError, match=r"weights must fit the model.*missing: bridge"):
        load_folder(tiny_folder, overrides={"bridge": {"depth": 2}})


def test_what_hdvl_sets_itself_cannot_be_overridden(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"bridge.out_width must not be given, hdvl sets .*leave"):
        load_folder(tiny_folder, overrides={"bridge": {"out_width": 3}})


def test_a_custom_card(tmp_path: Path) -> None:
    folder = save_folder(tiny_vlm(), tmp_path / "m", {"model": NODE}, card="# Mine\n")
    assert (folder / "README.md").read_text() == "# Mine\n"
