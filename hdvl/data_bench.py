"""``hdvl data bench``: measures the time of each stage of a sample, and the speed of kinds of workers."""

from typing import Any

from hdvl.command import command


def run(config: dict[str, Any]) -> str:
    """Measure, and print tables.

    Raises:
        ValueError: there are no data, or a number is out of range.
    """
    from hdvl.data.bench import STAGES, samples_per_second, split_time
    from hdvl.data.build import build_data
    from hdvl.meta import on_meta

    count, batches, threads = (config[key] for key in ("count", "batches", "num_workers"))
    if min(count, batches, threads) < 1:
        raise ValueError(
            f"count, batches and num_workers must be at least 1, got {count}, {batches} and {threads}"
        )
    vlm, plain = on_meta(config["model"]), config["data"]

    def data(**changes: Any) -> Any:
        node = {**plain, "validation": None, "packing": None, **changes}
        return build_data(node, vlm, seed=config["seed"])

    one = data(num_workers=0)
    indices = range(min(count, len(one.conversations)))
    split = split_time(one.conversations, one.processor, indices, pad_id=one.pad_id)
    total = sum(split.seconds.values())
    lines = [
        f"{split.samples} samples, {split.tiles / split.samples:.1f} tiles and "
        f"{split.tokens / split.samples:.0f} ids each; CPU a sample, one process"
    ]
    for stage in STAGES:
        seconds = split.seconds[stage]
        lines.append(
            f"  {stage:<9} {1e3 * seconds / split.samples:8.2f} ms {100 * seconds / total:5.1f}%"
        )
    lines.append(f"  {'all':<9} {1e3 * total / split.samples:8.2f} ms")
    lines.append(f"samples/s of batches of {plain['batch_size']}, wall clock")
    kinds: dict[str, dict[str, Any]] = {"no worker": {"num_workers": 0}}
    for workers in ("processes", "threads"):
        kinds[f"{threads} {workers}"] = {
            "workers": workers,
            "num_workers": threads,
        }
    for name, changes in kinds.items():
        rate = samples_per_second(data(**changes).train_dataloader(), batches)
        lines.append(f"  {name:<12} {rate:8.1f}")
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    command("data_bench", lambda config: print(run(config)))


if __name__ == "__main__":
    main()
