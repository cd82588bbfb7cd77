"""The sources that conversations are made of, and what they are told when the model is known."""

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
    """Conversations made of others."""

    @property
    def sources(self) -> Mapping[str, Conversations]: ...

    def with_sources(self, sources: Mapping[str, Conversations]) -> Conversations:
        """The same made of other sources of the same names."""
        ...


def leaves(conversations: Conversations) -> list[Conversations]:
    """The sources that ``conversations`` are made of, at any depth; itself if it is made of none."""
    if isinstance(conversations, Composite):
        return [leaf for part in conversations.sources.values() for leaf in leaves(part)]
    return [conversations]


def finish(data: Sequence[Conversations], processor: Processor) -> None:
    """Tell the readers among ``data`` how large images are to the tiler, how the template writes boxes if
    they do not know yet, and what each is called.

    Sources of one label that read their rows in different ways are called by their settings too, so that
    "row 3" of one of them is not "row 3" of another.
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
