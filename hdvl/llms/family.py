"""Checks of what a family of language models supports: embeddings, padding, packing and slots."""

from typing import Any

from torch import Tensor

from hdvl.llms import probe
from hdvl.llms.plain_slots import is_plain
from hdvl.llms.segments import NAME


class Family:
    """Checks a model by :mod:`hdvl.llms.probe`, each property once and as early as possible."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._found: dict[str, str | None] = {}

    @property
    def name(self) -> str:
        """Model type of transformers."""
        return str(self._model.config.model_type)

    def check_embeddings(self) -> None:
        """Check that the model gives the same logits for ids and for their embeddings.

        Raises:
            ValueError: it does not.
        """
        fault = self._fault("embeddings")
        if fault:
            raise ValueError(
                f"a language model must read embeddings as it reads ids, {self.name} does more to ids "
                f"than look them up: {fault}; choose another llm"
            )

    def check_causality(self) -> None:
        """Refuse a model whose tokens see those after them: it would be trained on what it should say.

        Raises:
            ValueError: it is one.
        """
        fault = self._fault("causality")
        if fault:
            decoder = getattr(self._model.config, "is_decoder", True)
            raise ValueError(
                f"a language model must read each token without those after it, {self.name} sees them: "
                f"where a later token changes, {fault}; "
                + ("choose another llm" if decoder else "set llm.config.is_decoder=true")
            )

    def choose_attention(self) -> None:
        """Restore the model's own attention if padded batches fail with the attention for packing."""
        if not any(self._padding_faults()) or not probe.use_own_attention(self._model):
            return
        before, self._found = self._found, {}
        if any(self._padding_faults()):  # its own attention fails too
            self._model.set_attn_implementation(NAME)
            self._found = before

    def check_padding(self, mask: Tensor) -> None:
        """Check that the family gives the same logits for a padded batch as for each row alone.

        Raises:
            ValueError: it does not.
        """
        faults = self._padding_faults()
        if not any(faults) or mask.all():
            return
        left = not bool(mask[:, 0].all())
        fault = faults[left]
        if fault:
            raise ValueError(
                f"rows must have equal lengths, since {self.name} gives other logits for rows padded on "
                f"the {'left' if left else 'right'} than without padding: {fault}; set batch_size to 1"
            )

    def check_packing(self) -> None:
        """Check that the family gives the same logits for packed documents as for each alone.

        Raises:
            ValueError: it does not.
        """
        fault = self._fault("packing")
        if fault:
            raise ValueError(
                f"packing needs a model that gives the same logits for packed documents as for each "
                f"alone, {self.name} does not: {fault}; set data.packing=null"
            )

    def writes_embeddings(self) -> bool:
        """Whether a forward pass changes the embeddings that it is given, so that it needs a copy."""
        return self._fault("in place") is not None

    def slots_fault(self) -> str | None:
        """Return why slots of different lengths give other logits than each sequence alone, if so."""
        return self._fault("slots")

    def has_plain_slots(self) -> bool:
        """Whether the layers that hdvl computes itself give the logits of the model."""
        return is_plain(self._model) and self._fault("plain slots") is None

    def _padding_faults(self) -> list[str | None]:
        return [self._fault(question) for question in ("padding", "padding on the left")]

    def _fault(self, question: str) -> str | None:
        if question not in self._found:
            known, fault = probe.fault(self._model, question)
            if not known:
                return None
            self._found[question] = fault
        return self._found[question]
