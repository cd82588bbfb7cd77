"""``hdvl export``: write a model folder of hdvl for transformers or vLLM."""

from typing import Any

from hdvl.command import command


def run(plain: dict[str, Any]) -> str:
    """Export the model, and return a description of what was written.

    Raises:
        ValueError: a key is missing, or the other library cannot run the model; all reasons are listed.
    """
    from hdvl.checkpoints.exporters import FORMATS
    from hdvl.checkpoints.sources import find_folder

    absent = [name for name in ("checkpoint", "to") if plain[name] is None]
    if absent:
        raise ValueError(f"{' and '.join(absent)} must be given: hdvl export checkpoint=DIR to=DIR")
    if plain["format"] not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {plain['format']!r}")
    options = {} if plain["max_shard"] is None else {"max_shard": plain["max_shard"]}
    if options and plain["format"] == "vllm":
        raise ValueError(
            "max_shard is an option of format=transformers, format=vllm copies the weight files as they "
            "are; leave it out"
        )
    found = FORMATS[plain["format"]](
        find_folder(plain["checkpoint"]),
        plain["to"],
        overrides=plain["overrides"] or {},
        allow=plain["allow"],
        **options,
    )
    notes = [f"note: {note}" for note in found.notes]
    return "\n".join([f"{found.architecture} -> {found.folder}", *notes])


def main() -> None:
    """Run the command; exit code 1 with the reason if something is missing or does not fit."""
    command("export", lambda plain: print(run(plain)))


if __name__ == "__main__":
    main()
