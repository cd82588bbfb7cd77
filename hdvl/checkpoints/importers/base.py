"""The interface of importers, and functions that several of them use.

An importer puts the values of published files into the node of a preset. Objects to build are
:class:`~hdvl.checkpoints.nodes.Node` mappings: those of the preset, and those that :func:`tokenizer_node`
and :func:`template_node` return. Every other mapping is data and is kept as it was published, whatever its
keys are, and no text is interpolated. Published values therefore need no cleaning, but an importer must
never turn them into a ``Node``. ``node |= {...}`` changes a node, ``{**node, ...}`` gives a plain mapping.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers.mapping import TensorSource
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
        name: the name of the layout in ``hdvl convert from=``.
        licence: the licence of the published weights, for the model card.
        parts: the names of the parts, for a model that was published in several parts.
        preset: the choice of ``conf/model/`` whose node is filled.
    """

    name: str
    preset: str
    licence: str = "unknown"
    parts: Sequence[str] = ()

    @abstractmethod
    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        """Whether this importer reads a folder with this ``config.json`` and these files.

        Only properties that no other layout has may be tested: for every folder at most one importer
        returns True.

        Args:
            config: the content of ``config.json``; empty if the folder has none.
            files: names in the folder and one level down, such as ``clip/config.json``.
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
        """The model node: the preset with the sizes of ``config`` and of the stored tensors.

        Raises:
            ValueError: the configuration belongs to another model, or disagrees with the stored shapes.
        """

    @abstractmethod
    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, TensorSource]:
        """The source of each tensor of the model; ``targets`` are the names under which hdvl stores them."""

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        """Regular expressions of stored keys that the model of ``node`` does not need (matched whole)."""
        return ()

    def preset_node(self, preset: str | None = None) -> Node:
        """A copy of the model node of ``conf/model/{preset}.yaml``."""
        return deepcopy(_composed(preset or self.preset))


@cache
def _composed(preset: str) -> Node:
    node: Node = marked(to_plain(compose(f"model={preset}").model))
    return node


def tokenizer_node(folder: Path, **options: Any) -> Node:
    """The node of the tokenizer in ``folder``; ``options`` are those of ``hdvl.llms.load_tokenizer``."""
    return Node({TARGET: LOAD_TOKENIZER, "path": str(folder), **options})


def template_node(template: Any) -> Node:
    """The node of a template that was read from published files, with the node of its box codec."""
    return Node({**node_of(template), "boxes": marked(node_of(template.boxes))})


def one_folder(name: str, source: CheckpointSource) -> Path:
    """Return ``source`` if it is a single folder.

    Raises:
        ValueError: it consists of several parts.
    """
    if isinstance(source, Mapping):
        raise ValueError(f"{name} must be given one folder, got the parts {sorted(source)}")
    return source


def tokenizer_and_image_id(
    folder: Path, image_token: str, *, rows: int | None = None, **options: Any
) -> tuple[Node | None, int]:
    """The node of the tokenizer in ``folder``, and the id of ``image_token``.

    An ``image_token`` that the tokenizer does not have is added to it and gets a new id.

    Args:
        folder: the published folder.
        image_token: the token of image slots.
        rows: the number of rows of the embeddings, if the ids are to be compared with it.
        options: options of ``hdvl.llms.load_tokenizer``.

    Returns:
        The node and the id; None and -1 if the folder has no tokenizer files.

    Raises:
        ValueError: the tokenizer has ids that are not below ``rows``.
    """
    if not has_tokenizer(folder):
        return None, -1
    tokenizer = load_tokenizer(folder, **options)
    last = max(index for token, index in tokenizer.get_vocab().items() if token != image_token)
    if rows is not None and last >= rows:
        raise ValueError(
            f"tokenizer in {str(folder)!r} must fit the vocabulary of {rows} rows, its last id is "
            f"{last}; one of the two belongs to another model"
        )
    tokenizer.add_tokens([image_token])
    return tokenizer_node(folder, **options), int(tokenizer.convert_tokens_to_ids(image_token))


def read_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in ``file``.

    Raises:
        ValueError: there is no such file, or it holds no JSON object.
    """
    if not file.is_file():
        raise ValueError(f"published folder must hold {file.name}, {str(file.parent)!r} has none")
    plain = read_any_json(file)
    if not isinstance(plain, dict):
        raise ValueError(f"{str(file)!r} must be a JSON object, got {type(plain).__name__}")
    return plain


def required(config: Mapping[str, Any], names: Sequence[str], *, source: object) -> dict[str, Any]:
    """The values of ``names`` in ``config``, the configuration of ``source``.

    Raises:
        ValueError: names are absent; all of them are listed.
    """
    absent = [name for name in names if name not in config]
    if absent:
        raise ValueError(
            f"configuration of {source} must have {', '.join(absent)}; it belongs to another model"
        )
    return {name: config[name] for name in names}


def agree(pairs: Mapping[str, tuple[object, object]], *, source: object) -> None:
    """Raise an error if numbers of a configuration differ from those of the stored shapes.

    Args:
        pairs: name -> (value in the configuration, value in the stored shapes).
        source: the folder, for the message.

    Raises:
        ValueError: some differ; all of them are listed.
    """
    wrong = [
        f"{name}={configured} but {stored} is stored"
        for name, (configured, stored) in pairs.items()
        if configured != stored
    ]
    if wrong:
        raise ValueError(
            f"configuration and weights of {source} must agree, they do not: {'; '.join(wrong)}; "
            "one of the two belongs to another model"
        )


def differing(pairs: Mapping[str, tuple[object, object]]) -> list[str]:
    """A text for each name whose value, the first of the pair, is not the only supported one, the second."""
    return [
        f"{name}={value} (only {only})" for name, (value, only) in pairs.items() if value != only
    ]


def refuse_unsupported(
    faults: Sequence[str], *, source: object, file: str = "configuration"
) -> None:
    """Raise a ``ValueError`` if there are ``faults``: settings in ``file`` that hdvl does not support."""
    if faults:
        raise ValueError(
            f"{file} of {source} has settings that hdvl does not support: {'; '.join(faults)}"
        )
