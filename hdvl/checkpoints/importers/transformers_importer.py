"""The base of the importers of vision-language models in the layout of transformers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hdvl.checkpoints.importers import transformers_layout as layout
from hdvl.checkpoints.importers.base import CheckpointSource, Importer, one_folder
from hdvl.checkpoints.importers.mapping import TensorSource, renamed
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node


class TransformersImporter(Importer):
    """Reads folders that ``save_pretrained`` of a vision-language model of transformers wrote.

    Attributes:
        model_type: the ``model_type`` of ``config.json``.
        bridge_names: names of the bridge's layers in ``bridge.mlp`` -> names in the projector.
        adds_tokens: whether the processor lets the tokenizer add tokens such as ``<s>`` to a text.
    """

    model_type: str
    bridge_names: ClassVar[Mapping[str, str]]
    adds_tokens: bool = True

    @abstractmethod
    def fill_vision(
        self, node: Node, hf_config: Any, settings: Mapping[str, Any], folder: Path
    ) -> None:
        """Put the tiler, the encoder, the bridge and the merger into ``node``.

        Args:
            node: the node of the preset, which is changed.
            hf_config: the configuration object of transformers.
            settings: the settings of the image processor; empty if the folder has none.
            folder: the published folder.

        Raises:
            ValueError: a setting that hdvl does not support.
        """

    def recognises(self, config: Mapping[str, Any], files: Sequence[str]) -> bool:
        return config.get("model_type") == self.model_type

    def node(
        self, source: CheckpointSource, config: Mapping[str, Any], published: Published
    ) -> Node:
        folder = one_folder(self.name, source)
        hf_config, node = layout.transformers_config(config), self.preset_node()
        self.fill_vision(node, hf_config, layout.image_settings(folder), folder)
        layout.fill_language(
            node,
            folder,
            config,
            hf_config,
            published,
            self.image_placeholder(folder),
            adds_tokens=self.adds_tokens,
        )
        self.fill_text(node, hf_config, folder)
        return node

    def image_placeholder(self, folder: Path) -> str:
        """What the chat template writes for an image; empty if it writes the image token."""
        return ""

    def fill_text(self, node: Node, hf_config: Any, folder: Path) -> None:
        """Change the parts of ``node`` that depend on its language model; nothing by default."""
        return

    def mapping(
        self, targets: Sequence[str], node: Mapping[str, Any], published: Published
    ) -> dict[str, TensorSource]:
        at = {part: layout.prefix(published, part) for part in layout.PREFIXES}
        rules = [
            (r"encoder\.model\.(.*)", rf"{at['vision']}\1"),
            *(
                (rf"bridge\.mlp\.{own_name}\.(.*)", rf"{at['projector']}{published_name}.\1")
                for own_name, published_name in self.bridge_names.items()
            ),
            (r"merger\.newline", at["newline"]),
            (r"llm\.model\.model\.(.*)", rf"{at['language']}\1"),
            (r"llm\.model\.lm_head\.(.*)", rf"{at['head']}\1"),
        ]
        return renamed(targets, rules)

    def ignorable(self, node: Mapping[str, Any]) -> Sequence[str]:
        depth = self.vision_depth(node)
        return [*layout.ignorable_vision(node, depth), *layout.ignorable_head(node)]

    def vision_depth(self, node: Mapping[str, Any]) -> int:
        """The number of blocks of the published vision tower."""
        return int(node["encoder"]["config"]["num_hidden_layers"])
