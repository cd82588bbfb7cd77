"""What ``hdvl train`` prints at its end."""

from pathlib import Path

from hdvl.train import finished_text


def test_the_next_commands_allow_packages_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for target, allow in (("hdvl.bridges.MLP", ""), ("my_bridges.Conv", " allow=[my_bridges]")):
        config = f"format: 1\nmodel:\n  bridge:\n    _target_: {target}\n"
        (tmp_path / "model" / "config.yaml").write_text(config)
        text = finished_text(tmp_path / "model")
        assert f"hdvl infer checkpoint={tmp_path}{allow} image=FILE" in text
        assert f"hdvl chat checkpoint={tmp_path}{allow}\n" in text
