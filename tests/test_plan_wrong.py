"""Wrong configurations of every kind: ``hdvl plan`` names the field, and exits with code 1."""

import json
import random
import re
import sys

import pytest
from omegaconf import OmegaConf
from PIL import Image

from hdvl import plan
from hdvl.command import exit_with_message
from hdvl.config import compose

SMALL = ("encoder=tiny", "llm=tiny", "survey=12")

# overrides, what the message names
WRONG = [
    (["tiler.tile_size=448"], r"tiler\.tile_size=448 must equal the encoder's tile_size=224"),
    (["tiler.stride=0"], r"stride must be .*got 0"),
    (["tiler.max_tiles=0"], r"max_tiles must be .*got 0"),
    (["model.encode_chunk=0"], r"encode_chunk must be at least 1 or null, got 0"),
    (["encoder.select_layer=9"], r"select_layer"),
    (["bridge=pixel_shuffle_mlp", "bridge.factor=2"], r"factor"),
    (
        ["encoder=conv_stem", "bridge=pixel_shuffle_mlp", "bridge.order=v1", "merger=spatial"],
        r"bridge PixelShuffleMLP with order=v1 .* merger Spatial .* set bridge\.order=v2",
    ),
    (["bridge.activation=gellu"], r"activation must be a known name, got 'gellu'; close: gelu"),
    (
        ["encoder=clip_l_336", "+encoder.config.num_hidden_layer=3"],
        r"config of clip_vision_model has no num_hidden_layer; did you mean num_hidden_layers\?",
    ),
    (["encoder=clip_l_336", "encoder.name=clip"], r"take its vision part, clip_vision_model"),
    (["bridge.depth=0"], r"depth must be .*got 0"),
    (["tuning.llm=loar"], r"tuning\.llm must be one of frozen, full, .*got loar"),
    (["tuning.merger=lora"], r"tuning\.merger=lora needs a linear layer"),
    (
        ["tuning.llm=lora", "tuning.lora.common.rank=0"],
        r"tuning\.lora of llm must have rank >= 1 .*got 0",
    ),
    (
        ["tuning.llm=lora", "tuning.lora.llm.targets=[quarry]"],
        r"quarry is not; change tuning\.lora\.llm\.targets",
    ),
    (
        ["tuning.encoder=frozen", "tuning.bridge=frozen", "tuning.llm=frozen"],
        r"must train something",
    ),
    (["optimizer.groups.llm.min_lr_ratio=2"], r"min_lr_ratio of llm must be in 0\.\.1"),
    (["optimizer.common.lr=-1"], r"lr, .* must be at least 0, got -1"),
    (["optimizer.common.layer_decay=0"], r"layer_decay in \(0, 1\]"),
    (["optimizer.common.weight_decay=null"], r"optimizer\.common\.weight_decay must be a number"),
    (["optimizer.schedule=cosin"], r"optimizer\.schedule must be one of cosine, .*got cosin"),
    (["optimizer.first_token_weight=0"], r"first_token_weight must be .* above 0, got 0"),
    (["optimizer.weighting=tokens"], r"optimizer\.weighting must be one of token, .*got tokens"),
    (["trainer.max_steps=5", "optimizer.common.warmup_steps=5"], r"warmup_steps of .* total of 5"),
    (["trainer.max_steps=0"], r"trainer\.max_steps must be at least 1, got 0"),
    (["trainer.accumulate_grad_batches=0"], r"trainer\.accumulate_grad_batches must be .*got 0"),
    (["trainer.precision=fp8"], r"trainer\.precision must be one of .*got fp8"),
    (["trainer.strategy=fsdp"], r"trainer\.strategy must be auto or .*got fsdp"),
    (["trainer.gradient_clip_val=-1"], r"trainer\.gradient_clip_val must be at least 0, got -1"),
    (["trainer=fsdp2", "tuning.llm=qlora"], r"cannot shard four-bit weights"),
    (["data.batch_size=0"], r"data\.batch_size must be at least 1 .* got 0"),
    (
        ["llm.config.max_position_embeddings=64"],
        "example must fit the context of the language model, 64 ids, an image of 1024x768 and text",
    ),
    (["data.max_length=40"], r"data\.max_length=40 would leave out \d+ of 12 .* data\.max_bad"),
    (["data.packing={tokens: 64, tiles: 9}"], r"raise data\.packing\.tokens"),
    (["data.packing={tokens: 0, tiles: 9}"], r"packing\.tokens must be at least 1, got 0"),
    (["data.train.path=lost.json"], r"lost\.json"),
    (
        ["data.train.image_folder=lost"],
        r"data\.train\.image_folder must be the folder .* no folder lost",
    ),
    (["data.train.image_folder=."], r"leave out 12 of 12 .* correct data\.train\.image_folder"),
    (["gpus=0"], r"gpus must be at least 1, got 0"),
    (["trainer.max_epochs=0"], r"trainer\.max_epochs must be above 0, or -1 .* got 0"),
    (["peak.flops=0"], r"peak\.flops must be above 0, got 0"),
    (["peak.utilisation=40"], r"peak\.utilisation must be in \(0, 1\], got 40"),
    (["peak.memory=1e6"], r"peak\.memory=1e\+06 bytes of a device must hold"),
    (
        ["callbacks.recompute.parts=[bridge]"],
        r"callbacks\.recompute\.parts must be of encoder, llm",
    ),
    (["stages=[{name: a}, {name: a}]"], r"stages\[1\]\.name must be .*got a"),
    (["stages=[{name: a, tuneing: {}}]"], r"a stage may change .*stages\[0\] has tuneing"),
    (["stages=[{name: a, trainer: {max_step: 3}}]"], r"trainer\.max_step is no key"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twelve questions about images of seeded sizes, as words of the command line."""
    folder, rng, rows = tmp_path_factory.mktemp("data"), random.Random(0), []
    for index in range(12):
        size = (rng.randrange(200, 900), rng.randrange(200, 900))
        Image.new("RGB", size, "red").save(folder / f"{index}.png")
        said = [{"from": "human", "value": "<image>Colour?"}, {"from": "gpt", "value": "red"}]
        rows.append({"id": index, "image": f"{index}.png", "conversations": said})
    (folder / "rows.json").write_text(json.dumps(rows))
    return [
        "data=llava",
        f"data.train.path={folder / 'rows.json'}",
        f"data.train.image_folder={folder}",
    ]


def exit_of(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """What ``hdvl plan`` exits with: None, or a message, which makes exit code 1."""
    monkeypatch.setattr(sys, "argv", ["hdvl plan"])
    try:
        with exit_with_message("plan"):
            config = compose(*overrides, config_name="plan")
            plan.show(OmegaConf.to_container(config, resolve=False))
    except SystemExit as stop:
        return stop.code
    return None


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_configurations_are_named(
    overrides: list[str], message: str, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = exit_of([*SMALL, *data, *overrides], monkeypatch)
    assert isinstance(said, str) and said.startswith("hdvl plan: ") and re.search(message, said)
    assert len(said) < 500, said


@pytest.mark.slow
@pytest.mark.parametrize("extra", [["data.packing={tokens: 4096, tiles: 64}"], []])
def test_the_right_one_is_planned(
    extra: list[str],
    data: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*SMALL, *data, *extra, "gpus=2", "trainer=fsdp2", "data.batch_size=2"]
    assert exit_of(words, monkeypatch) is None
    out = capsys.readouterr().out
    for line in (
        "data: 12 conversations, 12 of them measured",
        "0 over max_length, 0 faulty",
        "of the packing's budget" if extra else "of the padded batches",
        "each of 2 (gpus), fsdp2",
        "together, overlapped",
    ):
        assert line in out, out
