"""Finds the repeated blocks of a part, for sharding, recomputation and layer-wise decay."""

from collections.abc import Iterator

from torch import nn


def blocks(part: nn.Module) -> list[nn.Module]:
    """Return the blocks of ``part``: in each tower, the members of its largest list of equal modules."""
    return [block for tower, _ in towers(part) for block in _heaviest(tower)]


def _heaviest(tower: nn.Module) -> list[nn.Module]:
    alike = [row for _, row in _rows(tower) if len({type(block) for block in row.children()}) == 1]
    weights = [sum(p.numel() for p in row.parameters()) for row in alike]
    most = max(weights, default=0)
    return list(alike[weights.index(most)].children()) if most else []


def _rows(module: nn.Module) -> Iterator[tuple[str, nn.ModuleList | nn.Sequential]]:
    """Yield the name and the list of each non-empty list of modules in ``module``, itself included."""
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child):
            yield name, child


def longest_stack(module: nn.Module) -> tuple[str, int]:
    """Return the name and length of the longest list of modules inside ``module``, or ("", 0) without any."""
    lengths = ((name, len(row)) for name, row in _rows(module))
    return max(lengths, key=lambda pair: pair[1], default=("", 0))


def towers(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the stacks of blocks in a part. Parallel stacks, as in fused encoders, are separate."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) and all(
            longest_stack(member)[1] > len(child) for member in child
        ):
            return [(member, f"{name}.{index}.") for index, member in enumerate(child)]
    return [(module, "")]
