"""``hdvl convert``: write a published model as a folder of hdvl, tensor by tensor."""

from typing import Any

from hdvl.command import command


def run(plain: dict[str, Any]) -> str:
    """Convert the model, and return a description of what was written.

    Raises:
        ValueError: a key is missing, or the weights do not fit the model.
    """
    from hdvl.checkpoints.importers import convert
    from hdvl.checkpoints.native import read_config
    from hdvl.checkpoints.shards import find_shards, read_shapes
    from hdvl.inference.load import as_dtype

    absent = [name for name in ("path", "to") if plain[name] is None]
    if absent:
        raise ValueError(f"{' and '.join(absent)} must be given: hdvl convert path=DIR to=DIR")
    folder = convert(
        plain["path"],
        plain["to"],
        plain["from"],
        dtype=as_dtype(plain["dtype"]),
        max_shard=plain["max_shard"],
    )
    files = find_shards(folder)
    total = sum(file.stat().st_size for file in files)
    stored = read_config(folder)
    lines = [
        f"{stored['converted_from']} -> {folder}",
        f"{len(read_shapes(files))} tensors, {total / 1e9:.3f} GB in {len(files)} files",
    ]
    if stored["model"]["llm"]["tokenizer"] is None:
        lines.append(
            "there is no tokenizer beside the weights, so the model reads ids alone; add tokenizer.json and "
            "convert again for text"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command; exit code 1 with the reason if something is missing or does not fit."""
    command("convert", lambda plain: print(run(plain)))


if __name__ == "__main__":
    main()
