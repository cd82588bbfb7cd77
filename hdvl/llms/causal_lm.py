"""Causal language models of transformers for the ``LLM`` protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hdvl.llms.building import checked_config, from_numbers, note_attention, without_unknown_keys
from hdvl.llms.caching import continuation_arguments, empty_cache
from hdvl.llms.family import Family
from hdvl.llms.gptq_kernels import GPTQKernels
from hdvl.llms.loading import read_pretrained
from hdvl.llms.plain_slots import PlainSlots
from hdvl.llms.qwen1 import Qwen1Rules
from hdvl.llms.rotary import (
    check_shared,
    positions_of,
    prompts,
    rotary_by_length,
    separate_documents,
)
from hdvl.llms.segments import segment_options, use_segments
from hdvl.llms.slots import ModelSlots, holds_keys_only
from hdvl.llms.transformers_config import context_length, plain_numbers
from hdvl.protocols import Cache, Segment
from hdvl.sequences import one_or_several


class CausalLM(nn.Module):
    """Causal language model of transformers with its tokenizer.

    Attributes:
        tokenizer: the tokenizer. ``None`` for a folder that holds weights only; functions that need text
            then raise.
        new_ids: the ids that :meth:`add_tokens` added.
        stop_ids: the ids that end an answer by default.
    """

    model: Any
    tokenizer: Any
    new_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    rules: Qwen1Rules | None
    quantisation: GPTQKernels | None

    def __init__(
        self,
        *,
        model: nn.Module,
        tokenizer: Any = None,
        stop_ids: Sequence[int] = (),
        rules: Qwen1Rules | None = None,
        quantisation: GPTQKernels | None = None,
    ) -> None:
        super().__init__()
        from transformers import GenerationConfig

        # Sampling settings of a checkpoint would otherwise apply to options that a call does not set.
        model.generation_config = GenerationConfig()
        note_attention(model)
        use_segments(model)
        separate_documents(model)
        if rules is not None:
            rules.attach(model)
        if quantisation is not None:
            quantisation.attach(model)
        self.model = model
        self.tokenizer, self.stop_ids = tokenizer, tuple(stop_ids)
        self.rules, self.quantisation = rules, quantisation
        self._family = Family(model)
        if quantisation is None:  # quantised weights are loaded later, before the first call
            self._family.check_embeddings()
            self._family.check_causality()
            self._family.choose_attention()
            self._family.writes_embeddings()  # known before the first forward pass
        self.new_ids = ()

    @classmethod
    def from_config(
        cls,
        *,
        config: Mapping[str, Any],
        tokenizer: Any = None,
        stop_ids: Sequence[int] = (),
        rules: Qwen1Rules | None = None,
        quantisation: GPTQKernels | None = None,
    ) -> "CausalLM":
        """Build a model with random weights, also on the ``meta`` device.

        Args:
            config: ``model_type`` and the values that differ from its defaults. ``vocab_size`` is that of
                the tokenizer unless given.
            tokenizer: the tokenizer, or ``None``.
            stop_ids: the ids that end an answer by default; the tokenizer's end-of-sequence id if empty.
            rules: the position rules that make a Qwen2 model a Qwen-1 model.
            quantisation: kernels that compute with published weights of few bits as they are stored.

        Raises:
            ValueError: the configuration is not one of transformers, or does not fit the tokenizer.
        """
        numbers = dict(config)
        if tokenizer is not None:
            numbers.setdefault("vocab_size", len(tokenizer))
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                numbers.setdefault(name, getattr(tokenizer, name))
        return cls(
            model=from_numbers(checked_config(numbers)),
            tokenizer=tokenizer,
            stop_ids=stop_ids,
            rules=rules,
            quantisation=quantisation,
        )

    @classmethod
    def from_pretrained(
        cls, path: str, *, tokenizer: Any = None, dtype: str = "float32"
    ) -> "CausalLM":
        """Load a model from a local folder, from the hub, or from a GGUF file, whose weights are dequantised.

        Only safetensors and GGUF files are read, and no code of the folder is run. On the ``meta`` device
        only the configuration and the tokenizer are read.

        Args:
            path: a folder, a ``.gguf`` file or a folder that holds one, or a name on the hub.
            tokenizer: a tokenizer to use instead of that of the folder or file.
            dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (as stored).

        Raises:
            ValueError: keys are missing, unexpected or of another shape (the message lists them), or a GGUF
                file is damaged, has no tokenizer, or is of an architecture that transformers does not read.
            ImportError: a GGUF file needs the package gguf, which is not installed.
        """
        model, tokenizer = read_pretrained(path, tokenizer=tokenizer, dtype=dtype)
        return cls(model=model, tokenizer=tokenizer)

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def context(self) -> int | None:
        """The most ids that the model can read; ``None`` for no limit."""
        return context_length(self.model.config)

    @property
    def backbone(self) -> nn.Module:
        """The model without its output head."""
        backbone: nn.Module = self.model.base_model
        return backbone

    @property
    def rows(self) -> int:
        """Number of rows of the input embedding."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def add_tokens(self, tokens: Sequence[str]) -> int:
        """Add ``tokens`` to the tokenizer, so that each of them is one id, and return how many are new.

        The embedding layers are enlarged if needed. A new row is initialised with the mean of the existing
        rows, so that a new token is as likely as an average one. The tokens are not "special" to the
        tokenizer, so ``decode(..., skip_special_tokens=True)`` keeps them.

        Raises:
            ValueError: the model has no tokenizer.
        """
        from tokenizers import AddedToken

        if self.tokenizer is None:
            raise ValueError("adding tokens needs a tokenizer, this model was loaded without one")
        self._check_rows(len(self.tokenizer))
        old = len(self.tokenizer)
        vocabulary = self.tokenizer.get_vocab()
        unique = dict.fromkeys(one_or_several(tokens, "tokens"))
        new = [token for token in unique if token not in vocabulary]
        self.tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in new])
        if len(self.tokenizer) > self.rows:
            self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        if new:
            self._start_rows(old, len(self.tokenizer))
            self.new_ids += tuple(range(old, len(self.tokenizer)))
        return len(new)

    def register_image_token(self, token: str, token_id: int) -> None:
        """Register ``token`` with the tokenizer as ``token_id``, without a row in the embedding layers.

        The embedding of an image token is never looked up, because visual tokens replace it. A published
        vocabulary therefore keeps its number of rows. Without a tokenizer nothing is done.

        Raises:
            ValueError: the tokenizer has another id for ``token``, or has other ids without a row.
        """
        from tokenizers import AddedToken

        if self.tokenizer is None:
            return
        self.tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])
        vocabulary = self.tokenizer.get_vocab()
        if vocabulary[token] != token_id:
            raise ValueError(
                f"image_token_id must be the tokenizer's id of {token!r}, {vocabulary[token]}, got "
                f"{token_id}"
            )
        self._check_rows(1 + max(i for name, i in vocabulary.items() if name != token))

    def _check_rows(self, needed: int) -> None:
        if needed > self.rows:
            raise ValueError(
                f"vocabulary of the model must hold the tokenizer's {needed} tokens, got "
                f"{self.rows} rows; leave vocab_size out, or use the tokenizer that belongs to it"
            )

    @torch.no_grad()
    def _start_rows(self, first: int, last: int) -> None:
        tables = {id(m.weight): m.weight for m in self.embedding_layers()}
        for weight in tables.values():
            weight[first:last] = reduce(weight[:first], "row width -> width", "mean")

    def embedding_layers(self) -> list[Any]:
        """Return the input embedding and, if the model has one, the output head; they may be tied."""
        head = self.model.get_output_embeddings()
        return [self.model.get_input_embeddings(), *([head] if head is not None else [])]

    def embed(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s e"]:
        """Return the embeddings of ``ids``."""
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    def forward(
        self,
        embeddings: Float[Tensor, "b s e"],
        attention_mask: Int[Tensor, "b _p"] | Bool[Tensor, "b _p"] | None = None,
        position_ids: Int[Tensor, "b s"] | None = None,
        *,
        logits_to_keep: Int[Tensor, " k"] | None = None,
        segments: Sequence[Segment] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b _k v"]:
        """Compute logits from embeddings.

        Args:
            embeddings: (b, s, e).
            attention_mask: 0 for padding, (b, s); with ``cache`` also for the positions in it. Without a
                mask the causal kernel is used, which is right for batches without padding and for padding
                on the right, because no earlier position attends to it.
            position_ids: positions (b, s); counted from the mask unless given.
            logits_to_keep: the positions whose logits are computed; all positions if ``None``.
            segments: the lengths of the documents packed into one row. Documents do not attend to each
                other, and the positions of each start at 0. A segment of several lengths holds the length
                of a shared prefix and those of the documents that continue it.
            cache: cache of :meth:`new_cache`. The embeddings continue it and are added to it.

        Raises:
            ValueError: ``segments`` is combined with a mask, positions or a cache, or the model does not
                support packing.
        """
        self._check_family(embeddings, attention_mask)
        if not embeddings.is_meta and self._family.writes_embeddings():
            embeddings = embeddings.clone()
        options: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids}
        if segments is not None:
            if attention_mask is not None or position_ids is not None or cache is not None:
                raise ValueError(
                    "segments say all, give no attention_mask, no position_ids and no cache"
                )
            options = segment_options(self.model, embeddings, segments)
            check_shared(self.model, segments)
            self._family.check_packing()
        if cache is not None:
            options |= continuation_arguments(
                self.model, embeddings, attention_mask, position_ids, cache
            )
        elif attention_mask is not None and position_ids is None and rotary_by_length(self.model):
            options["position_ids"] = positions_of(attention_mask)
        if logits_to_keep is not None:
            options["logits_to_keep"] = logits_to_keep
        with prompts(self.model, getattr(cache, "prompt_lengths", ())):
            out = self.model(inputs_embeds=embeddings, use_cache=cache is not None, **options)
        logits: Tensor = out.logits
        return logits

    def _check_family(self, embeddings: Tensor, mask: Tensor | None) -> None:
        """Run the checks of the family that were not possible before the weights were loaded."""
        if embeddings.is_meta:
            return
        self._family.check_embeddings()
        self._family.check_causality()
        if mask is not None:
            self._family.choose_attention()
            self._family.check_padding(mask)

    def new_cache(self, prompt_lengths: Sequence[int] | None = None) -> Cache:
        """Return an empty cache of keys and values for one batch of prompts.

        Args:
            prompt_lengths: the lengths of the complete prompts without padding, if they are read in
                several calls. Rotary embeddings that depend on the length of the text need them.

        Raises:
            ValueError: the model does not support a cache of transformers.
        """
        past = empty_cache(self.model)
        past.prompt_lengths = tuple(prompt_lengths or ())
        if self.rules is not None and prompt_lengths is not None:
            self.rules.prepare(past, prompt_lengths, self.model.device)
        cache: Cache = past
        return cache

    def config_node(self) -> dict[str, Any]:
        """Return the plain node that builds this model without its weights and its tokenizer."""
        kind = type(self)
        module = "hdvl.llms" if kind is CausalLM else kind.__module__
        return {
            "_target_": f"{module}.{kind.__qualname__}.from_config",
            "config": without_unknown_keys(plain_numbers(self.model.config)),
            "stop_ids": list(self.stop_ids),
            **{
                name: {"_target_": f"hdvl.llms.{type(value).__name__}", **asdict(value)}
                for name, value in (("rules", self.rules), ("quantisation", self.quantisation))
                if value is not None
            },
        }

    def new_slots(self) -> ModelSlots | str:
        """Return empty slots for decoding several sequences together, or the reason why there are none."""
        if self.rules is not None:
            return "the position rules of Qwen-1 depend on the length of each prompt"
        if rotary_by_length(self.model):
            return "the rotary frequencies depend on the length of each text"
        if not holds_keys_only(self.model):
            return f"{self._family.name} keeps more of a text than keys and values"
        if self.model.device.type == "cpu" and self._family.has_plain_slots():
            return PlainSlots(self.model)
        fault = self._family.slots_fault()
        if fault:
            return f"{self._family.name} gives other logits in slots than for a single sequence: {fault}"
        return ModelSlots(self.model)
