"""What an importer answers, and what all of them share.

An importer puts the values of published files into the preset's node. What is to be built in it is a
:class:`~hdvl.checkpoints.nodes.Node`: those of the preset, and those that :func:`tokenizer_node` and
:func:`template_node` make. Every other mapping is data and stays as it was published, whatever its keys
are called, and no text is interpolated. So published values need no cleaning, but an importer must
never make a ``Node`` of them. ``node |= {...}`` changes a node, ``{**node, ...}`` gives a plain mapping.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers.mapping import From
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.known import LOAD_TOKENIZER
from hdvl.checkpoints.nodes import TARGET, Node, marked
from hdvl.config import compose, to_plain
from hdvl.files import read_json as read_any_json
from hdvl.llms.tokenizers import has_tokenizer, load_tokenizer
from hdvl.templates import node_of

CheckpointSource = Path | Mapping[str, Path]
"""A published folder, or the folders and files of a model that was published in parts."""

CONFIG = "config.json"


class Importer(ABC):
    """Reads one published layout. Stateless: one object of each class serves every call.

    Attributes:
        name: what ``hdvl convert from=`` calls it.
        licence: of the published weights, for the model card.
        parts: names of the parts of a model that was published in several, if it was.
        preset: the choice of ``conf/model/`` whose parts it fills.
    """

    name: str
    preset: str
    licence: str = "unknown"
    parts: Sequence[str] = ()

    @abstractmethod
    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        """Whether a folder with this ``config.json`` (empty if there is none) and these names is its.

        ``files`` are what lies in it and one level down (``clip/config.json``).
        Must look at what only this system has: for every folder at most one importer says yes.
        """

    def config(self, source: CheckpointSource) -> dict[str, Any]:
        """The configuration of the published model: ``config.json`` as plain JSON."""
        return read_json(one_folder(self.name, source) / CONFIG)

    def published(self, source: CheckpointSource) -> Published:
        """The stored weights."""
        return Published.in_folder(one_folder(self.name, source))

    @abstractmethod
    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        """The model node: the preset with the sizes that ``config`` and the shapes say.

        Raises:
            ValueError: the configuration is of another model, or disagrees with the shapes.
        """

    @abstractmethod
    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, From]:
        """What each of ``targets``, the stored names of the model's tensors, is made of."""

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        """Regular expressions (whole match) of stored keys that a model of ``node`` does not need."""
        return ()

    def preset_node(self, preset: str | None = None) -> Node:
        """The model node of ``conf/model/{preset}.yaml``, to put sizes into."""
        return deepcopy(_composed(preset or self.preset))


@cache
def _composed(preset: str) -> Node:
    node: Node = marked(to_plain(compose(f"model={preset}").model))
    return node


def tokenizer_node(folder: Path, **options: Any) -> Node:
    """The node of the tokenizer in ``folder``; ``options`` are those of ``hdvl.llms.load_tokenizer``."""
    return Node({TARGET: LOAD_TOKENIZER, "path": str(folder), **options})


def template_node(template: Any) -> Node:
    """The node of a template that was read from published files: it and its box codec are built."""
    return Node({**node_of(template), "boxes": marked(node_of(template.boxes))})


def one_folder(name: str, source: CheckpointSource) -> Path:
    """``source`` where it must be a single folder."""
    if isinstance(source, Mapping):
        raise ValueError(f"{name} must be given one folder, got the parts {sorted(source)}")
    return source


def text_side(
    folder: Path, slot: str, *, rows: int | None = None, **options: Any
) -> tuple[Node | None, int]:
    """The node of the tokenizer in ``folder``, and the id of image slots ``slot`` in it.

    A ``slot`` that is no published token gets the id that the tokenizer gives a new one. A folder
    without tokenizer files has no text side: None, and -1 for the slots. ``options`` are those of
    ``hdvl.llms.load_tokenizer``.

    Raises:
        ValueError: the tokenizer has ids beyond the ``rows`` of the vocabulary.
    """
    if not has_tokenizer(folder):
        return None, -1
    tokenizer = load_tokenizer(folder, **options)
    last = max(index for token, index in tokenizer.get_vocab().items() if token != slot)
    if rows is not None and last >= rows:
        raise ValueError(
            f"tokenizer in {str(folder)!r} must fit the vocabulary of {rows} rows, its last id is "
            f"{last}; one of the two is of another model"
        )
    tokenizer.add_tokens([slot])
    return tokenizer_node(folder, **options), int(tokenizer.convert_tokens_to_ids(slot))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object in ``file``.

    Raises:
        ValueError: no such file, or no JSON object in it.
    """
    if not file.is_file():
        raise ValueError(f"published folder must hold {file.name}, {str(file.parent)!r} does not")
    plain = read_any_json(file)
    if not isinstance(plain, dict):
        raise ValueError(f"{str(file)!r} must be a JSON object, got {type(plain).__name__}")
    return plain


def required(config: Mapping[str, Any], names: Sequence[str], *, source: object) -> dict[str, Any]:
    """The values of ``names`` in a configuration.

    Raises:
        ValueError: some are not there; all are listed.
    """
    absent = [name for name in names if name not in config]
    if absent:
        raise ValueError(
            f"configuration of {source} must have {', '.join(absent)}; it is of another model"
        )
    return {name: config[name] for name in names}


def agree(pairs: Mapping[str, tuple[object, object]], *, source: object) -> None:
    """Refuse a configuration whose numbers are not those of the stored shapes.

    ``pairs`` are name -> (what the configuration says, what is stored).
    """
    wrong = [
        f"{name}={told} but {found} is stored"
        for name, (told, found) in pairs.items()
        if told != found
    ]
    if wrong:
        raise ValueError(
            f"configuration and weights of {source} must agree, they do not: {'; '.join(wrong)}; "
            "one of the two is of another model"
        )
