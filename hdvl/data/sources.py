"""The sources of conversations, and their configuration for a model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from hdvl.data.conversations import Conversations
from hdvl.data.readers.base import RowConversations
from hdvl.data.sizes import size_by
from hdvl.processor import Processor


@runtime_checkable
class Composite(Protocol):
    """Conversations that are composed of other conversations."""

    @property
    def sources(self) -> Mapping[str, Conversations]: ...

    def with_sources(self, sources: Mapping[str, Conversations]) -> Conversations:
        """The same composition of other sources with the same names."""
        ...


def leaves(conversations: Conversations) -> list[Conversations]:
    """The sources of ``conversations`` at any depth; ``conversations`` itself if it is not composed."""
    if isinstance(conversations, Composite):
        return [leaf for part in conversations.sources.values() for leaf in leaves(part)]
    return [conversations]


def finish(data: Sequence[Conversations], processor: Processor) -> None:
    """Set in all readers of ``data`` the sizes of images, the box codec of the template, and their names.

    A box codec that a reader has already is kept. If sources with the same label differ in their settings,
    the settings are added to their names, so that "row 3" is unambiguous.
    """
    readers = [leaf for part in data for leaf in leaves(part) if isinstance(leaf, RowConversations)]
    kinds = {(reader.label, str(reader.settings)) for reader in readers}
    shared = Counter(label for label, _ in kinds)
    for reader in readers:
        reader.size_of = partial(size_by, processor.tiler)
        reader.boxes = reader.boxes or processor.template.boxes
        settings = ", ".join(f"{name}={value}" for name, value in reader.settings.items())
        reader.called = (
            f"{reader.label} with {settings}" if shared[reader.label] > 1 else reader.label
        )
