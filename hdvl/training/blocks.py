"""The repeated blocks of a part, which are sharded and recomputed one by one."""

from torch import nn

from hdvl.training.groups import towers


def blocks(part: nn.Module) -> list[nn.Module]:
    """The blocks of each tower of ``part``: the module list of one class with the most parameters, or []."""
    return [block for tower, _ in towers(part) for block in _heaviest(tower)]


def _heaviest(tower: nn.Module) -> list[nn.Module]:
    best, most = list[nn.Module](), 0
    for module in tower.modules():
        members = list(module.children())
        listed = isinstance(module, nn.ModuleList | nn.Sequential)
        if not listed or len({type(member) for member in members}) != 1:
            continue
        weight = sum(p.numel() for p in module.parameters())
        if weight > most:
            best, most = members, weight
    return best
