"""``init_from`` brings the composition of its model, and fine-tuning has values of its own."""

from pathlib import Path

import pytest

import hdvl
from hdvl.composition import with_fine_tuning, with_init_from
from hdvl.config import build, compose, resolve
from hdvl.training.start import check_start, load_start

WORDS = ["init_from=hdvl/small", "data=llava", "data.train.path=rows.json"]


def plain(*words: str):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose(*WORDS, *words), resolve=False)


def given(*words: str):
    return dict(word.split("=", 1) for word in (*WORDS, *words))


def result(*words: str):
    config = with_fine_tuning(with_init_from(plain(*words), given(*words)), given(*words))
    return config, resolve(config)


def test_the_default_is_the_whole_model_with_values_for_fine_tuning():
    config, resolved = result()
    model = resolved["model"]
    assert model["encoder"]["_target_"] == "hdvl.encoders.ConvStem"
    assert model["tiler"] == resolved["tiler"] and config["new_parts"] == []
    assert resolved["tuning"]["encoder"] == "frozen" and resolved["tuning"]["llm"] == "full"
    assert resolved["trainer"]["max_epochs"] == 10
    vlm = build(model)
    check_start(vlm, Path("hdvl/assets/small"), [], source="init_from")


def test_what_is_given_differs_and_nothing_else():
    _, resolved = result(
        "tiler.max_tiles=4", "tuning=lora", "optimizer.common.lr=1.0e-3", "trainer.max_epochs=2"
    )
    assert resolved["model"]["tiler"]["max_tiles"] == 4
    assert resolved["model"]["tiler"]["stride"] == 192  # the folder's
    assert resolved["tuning"]["encoder"] == "lora"
    assert resolved["optimizer"]["common"]["lr"] == 1.0e-3
    assert resolved["optimizer"]["common"]["warmup_steps"] == 0.1
    assert resolved["trainer"]["max_epochs"] == 2


@pytest.mark.slow
def test_a_chosen_part_starts_anew_and_so_does_a_bridge_that_no_longer_fits():
    config, resolved = result("encoder=tiny", "bridge=mlp")
    assert set(config["new_parts"]) == {"bridge", "encoder"}
    vlm = build(resolved["model"])
    assert vlm.tiler.tile_size == vlm.encoder.tile_size
    check_start(vlm, Path("hdvl/assets/small"), config["new_parts"], source="init_from")
    load_start(vlm, Path("hdvl/assets/small"), config["new_parts"])
    with pytest.raises(ValueError, match="weights must fit the model, init_from does not"):
        check_start(vlm, Path("hdvl/assets/small"), ["encoder"], source="init_from")


@pytest.mark.slow
def test_a_chosen_composition_is_not_replaced():
    config, resolved = result("model=small", "optimizer.common.lr=1e-4")
    assert resolved["model"]["encoder"]["_target_"] == "hdvl.encoders.ConvStem"
    assert config["model"]["encoder"] == "${encoder}" and config["new_parts"] == []
    assert resolved["trainer"]["max_epochs"] == 10
    config, resolved = result("experiment=smoke")
    assert resolved["trainer"]["max_epochs"] == -1
    assert resolved["model"]["encoder"]["_target_"] != "hdvl.encoders.ConvStem"


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="'hdvl/large' is not shipped"):
        config = plain() | {"init_from": "hdvl/large"}
        with_init_from(config, given())


@pytest.mark.slow
def test_fit_takes_the_words_of_the_command(monkeypatch, tmp_path):
    seen = {}

    def run(config, build_data, *, command_line):
        seen.update(config, line=command_line)
        return Path(config["run_dir"]) / "model"

    monkeypatch.setattr("hdvl.training.run.run", run)
    words = (*WORDS, "data.holdout=0.1", "tiler.thumbnail=null", f"run_dir={tmp_path / 'a=1'}")
    assert hdvl.fit(*words, live_plot=True) == tmp_path / "a=1" / "model"
    assert seen["data"]["holdout"] == 0.1 and seen["trainer"]["max_epochs"] == 10
    assert seen["tiler"]["thumbnail"] is None
    assert seen["callbacks"]["live_plot"]["folder"] == "${run_dir}"
    assert seen["line"].startswith("hdvl train init_from=hdvl/small data=llava")
    with pytest.raises(ValueError, match=r"optimizer\.common\.lr has no effect"):
        hdvl.fit("experiment=smoke", "optimizer.common.lr=1e-3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.nam=x", r"encoder.nam is no key of hdvl train, did you mean encoder.name\?"),
        ("encodr=tiny", r"encodr is no key of hdvl train, did you mean encoder\?"),
        ("encoder=tinny", r"encoder must be one of .* did you mean tiny"),
    ],
)
def test_mistakes_in_python_have_the_messages_of_the_commands(override, message):
    with pytest.raises(ValueError, match=message):
        hdvl.compose("encoder=timm", override)
