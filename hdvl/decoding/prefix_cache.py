"""A cache of the keys and values of earlier prompts, as a tree of prefixes of limited size.

The idea of the tree is that of RadixAttention (Zheng et al., "SGLang", arXiv 2312.07104).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

Keys = np.ndarray
"""Two int64 numbers for each position (s, 2): the id and 0 for text; for image slots, a hash of the image
and of the position within it."""


def common_length(prompts: Sequence[Keys | None]) -> int:
    """Return the number of first positions that are the same in all prompts; 0 if keys are unknown."""
    known = [keys for keys in prompts if keys is not None]
    if len(known) < len(prompts) or len(known) < 2:
        return 0
    length = min(map(len, known))
    same = np.all([(keys[:length] == known[0][:length]).all(1) for keys in known[1:]], axis=0)
    return length if same.all() else int(same.argmin())


@dataclass(eq=False)
class _Node:
    """The positions that follow those of the parent."""

    keys: Keys
    parts: list[Tensor]
    parent: "_Node | None"
    used: int = 0
    children: list["_Node"] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.parts)


class PrefixCache:
    """Keeps keys and values of prefixes; the least recently used are evicted first.

    Args:
        limit: the largest size of the keys and values in bytes; 0 disables the cache.

    Attributes:
        hits: prompts that begin with a cached prefix.
        misses: prompts without any cached prefix.
        evictions: nodes that were removed to make room for others.
        tokens_reused: positions that were not computed again.
        bytes: the current size of the keys and values in bytes.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"bytes of the prefix cache must be at least 0, got {limit}")
        self.limit = limit
        self.hits = self.misses = self.evictions = self.tokens_reused = self.bytes = 0
        self._clock = 0
        self._root = _Node(np.empty((0, 2), np.int64), [], None)

    def clear(self) -> None:
        """Remove all entries."""
        self._root, self.bytes = _Node(np.empty((0, 2), np.int64), [], None), 0

    def lookup(self, keys: Keys, most: int) -> list[tuple[int, list[Tensor]]]:
        """Return the longest cached prefix of ``keys`` of at most ``most`` positions.

        Returns:
            For each node in order: the number of positions, and views of their keys and values, each with
            axes (groups, positions, width).
        """
        found: list[tuple[int, list[Tensor]]] = []
        for node, count in self._walk(keys[:most]):
            node.used = self._tick()
            found.append((count, [part[:, :count] for part in node.parts]))
        reused = sum(count for count, _ in found)
        self.hits, self.misses = self.hits + bool(reused), self.misses + (not reused)
        self.tokens_reused += reused
        return found

    def known(self, keys: Keys) -> int:
        """Return how many of the first positions are cached."""
        return sum(count for _, count in self._walk(keys))

    def insert(self, keys: Keys, start: int, parts: list[Tensor]) -> None:
        """Store the positions of ``keys`` from ``start`` on; ``start`` must be ``known(keys)``.

        Args:
            keys: keys of the whole prefix.
            start: the number of positions that are cached already.
            parts: keys and values of the other positions; they are not copied.
        """
        path = list(self._walk(keys[:start]))
        if sum(count for _, count in path) != start or start == len(keys):
            return
        parent = self._root
        if path:
            node, count = path[-1]
            parent = node if count == len(node.keys) else self._split(node, count)
        new = _Node(keys[start:].copy(), parts, parent, self._tick())
        if new.bytes > self.limit:
            return
        parent.children.append(new)
        self.bytes += new.bytes
        while self.bytes > self.limit:
            self._evict(new)

    def _walk(self, keys: Keys) -> Iterator[tuple[_Node, int]]:
        """The nodes that match ``keys``, each with the number of matching positions."""
        node, place = self._root, 0
        while place < len(keys):
            following = next(
                (child for child in node.children if (child.keys[0] == keys[place]).all()), None
            )
            if following is None:
                return
            length = min(len(following.keys), len(keys) - place)
            same = (following.keys[:length] == keys[place : place + length]).all(1)
            count = length if same.all() else int(same.argmin())
            yield following, count
            if count < len(following.keys):
                return
            node, place = following, place + count

    def _split(self, node: _Node, count: int) -> _Node:
        """Split ``node`` after ``count`` positions, and return the first part."""
        assert node.parent is not None
        before = node.bytes
        head = _Node(
            node.keys[:count],
            [part[:, :count].clone() for part in node.parts],
            node.parent,
            node.used,
            [node],
        )
        node.parent.children[node.parent.children.index(node)] = head
        node.parent, node.keys = head, node.keys[count:]
        node.parts = [part[:, count:].clone() for part in node.parts]
        self.bytes += head.bytes + node.bytes - before
        return head

    def _evict(self, spared: _Node) -> None:
        """Remove the least recently used leaf; ``spared`` only if it is the only one."""
        leaves = [node for node in self._nodes(self._root) if not node.children]
        others = [leaf for leaf in leaves if leaf is not spared] or leaves
        oldest = min(others, key=lambda leaf: leaf.used)
        assert oldest.parent is not None
        oldest.parent.children = [node for node in oldest.parent.children if node is not oldest]
        self.bytes -= oldest.bytes
        self.evictions += 1

    def _nodes(self, node: _Node) -> Iterator[_Node]:
        for child in node.children:
            yield child
            yield from self._nodes(child)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock
