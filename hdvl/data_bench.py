"""``hdvl data bench``: where the time of a sample goes, and samples a second by kind of worker."""

from typing import Any

import hydra

from hdvl.config import CONF_DIR, exit_with_message


def run(config: Any) -> str:
    """Measure, and say it in a table. Raises ``ValueError`` where there are no data to measure."""
    from hdvl.config import from_plain, to_plain
    from hdvl.data.bench import STAGES, samples_per_second, split_time
    from hdvl.data.build import build_data
    from hdvl.training.estimate import on_meta

    if min(config.count, config.batches, config.num_workers) < 1:
        raise ValueError(
            f"count, batches and num_workers must be at least 1, got {config.count}, "
            f"{config.batches} and {config.num_workers}"
        )
    vlm, plain = on_meta(config.model), to_plain(config.data)

    def data(**changes: Any) -> Any:
        node = {**plain, "validation": None, "packing": None, **changes}
        return build_data(from_plain(node), vlm, seed=config.seed)

    one = data(num_workers=0)
    indices = range(min(config.count, len(one.conversations)))
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
        kinds[f"{config.num_workers} {workers}"] = {
            "workers": workers,
            "num_workers": config.num_workers,
        }
    for name, changes in kinds.items():
        rate = samples_per_second(data(**changes).train_dataloader(), config.batches)
        lines.append(f"  {name:<12} {rate:8.1f}")
    return "\n".join(lines)


@hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="data_bench")
def main(config: Any) -> None:
    """Print the table."""
    with exit_with_message("data bench"):
        print(run(config))


if __name__ == "__main__":
    main()
