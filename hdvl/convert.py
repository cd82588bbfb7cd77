"""``hdvl convert``: a published model becomes a folder of hdvl, tensor by tensor."""

from typing import Any

from hdvl.command import command


def run(plain: dict[str, Any]) -> str:
    """Convert, and say what was written. Raises ``ValueError`` where the model does not fit."""
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
            "no tokenizer lies beside the weights: the model reads ids, and text once "
            "tokenizer.json is there and it is converted again"
        )
    return "\n".join(lines)


def main() -> None:
    """Exit code 1 with the reason if something is missing or does not fit."""
    command("convert", lambda plain: print(run(plain)))


if __name__ == "__main__":
    main()
