"""``hdvl serve``: a server with OpenAI's interface, and a web page."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hdvl.chosen_model import is_composition, pipeline_of
from hdvl.command import command
from hdvl.composition import keys_of
from hdvl.config import given_words

if TYPE_CHECKING:
    from hdvl.inference import Pipeline
    from hdvl.serving.settings import Settings

NEW_MODEL = "hdvl/new"
"""What a model of random weights is called."""


def settings_of(cfg: Mapping[str, Any]) -> "Settings":
    """What the config says about all but the models.

    Raises:
        ValueError: a bound or a folder is wrong, or the file of keys holds none.
    """
    from hdvl.serving.settings import Settings, own_names, read_keys

    given = dict(cfg["settings"])
    given["served_hosts"] = given["served_hosts"] or own_names(cfg["host"])
    keys = () if cfg["api_keys_file"] is None else read_keys(cfg["api_keys_file"])
    return Settings(**given, api_keys=keys, defaults=cfg["generation"])


def pipelines_of(cfg: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, "Pipeline"]:
    """The models by their names, which are the checkpoints as they were given.

    Raises:
        ValueError: a checkpoint cannot be read, or two have one name.
    """
    given = cfg["checkpoint"]
    names = list(given) if isinstance(given, list) else [given]
    if is_composition({**cfg, "checkpoint": names[0] if names else None}, keys_of(overrides)):
        return {NEW_MODEL: pipeline_of({**cfg, "checkpoint": None}, overrides)}
    if len(set(names)) < len(names):
        raise ValueError(f"checkpoint must not name a model twice, got {given}")
    return {str(name): pipeline_of({**cfg, "checkpoint": name}, overrides) for name in names}


def run(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Load the models and serve until the process is told to stop."""
    try:
        from hdvl.serving import ServedModel, create_app
        from hdvl.serving.server import bind, log_to_stderr, serve
    except ImportError as error:
        raise ImportError(
            f"hdvl serve needs its libraries ({error}); install them with: pip install 'hdvl[serving]'"
        ) from error
    settings = settings_of(cfg)
    listening = bind(cfg["host"], cfg["port"])  # a port in use is found before a model is read
    log_to_stderr()
    models = [ServedModel(name, pipe) for name, pipe in pipelines_of(cfg, overrides).items()]
    app = create_app(models, settings, page=cfg["page"])
    host = f"[{cfg['host']}]" if ":" in cfg["host"] else cfg["host"]
    address = f"http://{host}:{listening.getsockname()[1]}"
    print(f"serving {', '.join(model.id for model in models)} at {address}/v1", file=sys.stderr)
    if cfg["page"]:
        print(f"web page at {address}/", file=sys.stderr)
    serve(app, listening, drain_seconds=settings.drain_seconds)


def main() -> None:
    """The command."""
    command("serve", lambda cfg: run(cfg, given_words()), checkpoint="checkpoint")


if __name__ == "__main__":
    main()
