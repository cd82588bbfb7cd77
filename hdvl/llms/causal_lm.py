"""Any causal language model of transformers, behind the ``LLM`` protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hdvl.llms import generation
from hdvl.llms.building import checked_config, from_numbers, note_attention
from hdvl.llms.caching import continued, empty_cache
from hdvl.llms.family import Family
from hdvl.llms.gptq_kernels import GPTQKernels
from hdvl.llms.qwen1 import Qwen1Rules
from hdvl.llms.rotary import (
    check_shared,
    positions_of,
    prompts,
    rotary_by_length,
    separate_documents,
)
from hdvl.llms.segments import segment_options, use_segments
from hdvl.llms.tokenizers import has_tokenizer, load_tokenizer
from hdvl.llms.transformers_config import context_length, plain_numbers
from hdvl.protocols import Cache, Segment
from hdvl.sequences import one_or_several


class CausalLM(nn.Module):
    """A causal language model that reads embeddings, and its tokenizer.

    ``tokenizer`` may be ``None`` (a folder of weights alone); whatever needs text then says so.
    ``new_ids`` are those that :meth:`add_tokens` made.
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

        # Some checkpoints carry sampling settings that would fill in for whatever is not said.
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
        if quantisation is None:  # whose weights come later, before the first call
            self._family.check_embeddings()
            self._family.check_causality()
            self._family.choose_attention()
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
        """A model with random weights from a plain ``config``: ``model_type`` and its numbers.

        ``vocab_size`` follows from the tokenizer when ``config`` does not give it. ``stop_ids`` end
        an answer where a call of ``generate`` names none; without them the tokenizer's end of
        sequence does. ``rules`` make a Qwen2 a Qwen-1; ``quantisation`` keeps
        published weights of few bits as they are. Builds on the ``meta`` device too.
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
        """The model in a local folder or of a hub name: safetensors only, no code from there.

        On the ``meta`` device the configuration and the tokenizer alone are read.

        Args:
            path: a folder, or a name on the hub.
            tokenizer: in place of the one that lies with the weights.
            dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (as stored).

        Raises:
            ValueError: keys are missing, left over or of another shape; the message lists them.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        local = Path(path).is_dir()
        if not local and path.startswith((".", "/", "~")):
            raise ValueError(f"model folder must exist, got {path!r}; check the path")
        if tokenizer is None and (not local or has_tokenizer(path)):
            tokenizer = load_tokenizer(path)
        if torch.get_default_device().type == "meta":
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            return cls(model=from_numbers(config), tokenizer=tokenizer)
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        faults = {name: sorted(map(str, keys)) for name, keys in report.items() if keys}
        if faults:
            raise ValueError(f"weights in {path!r} must match the model exactly, got {faults}")
        return cls(model=model, tokenizer=tokenizer)

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def context(self) -> int | None:
        """The most ids that the model can read."""
        return context_length(self.model.config)

    @property
    def backbone(self) -> nn.Module:
        """The model without its head."""
        backbone: nn.Module = self.model.base_model
        return backbone

    @property
    def rows(self) -> int:
        """Rows of the embedding table: ids that the model can read."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def add_tokens(self, tokens: Sequence[str]) -> int:
        """Make each of ``tokens`` one id, unless it is one already; returns how many are new.

        The tables grow when they are too short. A new row starts as the mean of the rows before it,
        so that no new token is likelier than a typical one. The tokens are not "special" to the
        tokenizer: ``decode`` keeps them, also where it skips special tokens.
        """
        from tokenizers import AddedToken

        if self.tokenizer is None:
            raise ValueError("adding tokens needs a tokenizer, this model was loaded without one")
        self._check_rows(len(self.tokenizer))
        old = len(self.tokenizer)
        vocabulary = self.tokenizer.get_vocab()
        wanted = dict.fromkeys(one_or_several(tokens, "tokens"))
        new = [token for token in wanted if token not in vocabulary]
        self.tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in new])
        if len(self.tokenizer) > self.rows:
            self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        if new:
            self._start_rows(old, len(self.tokenizer))
            self.new_ids += tuple(range(old, len(self.tokenizer)))
        return len(new)

    def register_image_token(self, token: str, token_id: int) -> None:
        """Make ``token`` the tokenizer's name of ``token_id``, an id that needs no row of the tables.

        Its embedding is never looked up: what it stands for is put in its place. So a published
        vocabulary keeps exactly its rows. Without a tokenizer there is nothing to name.

        Raises:
            ValueError: the tokenizer gives ``token`` another id, or has other ids without a row.
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
                f"{self.rows} rows; leave vocab_size out, or give the tokenizer that belongs to it"
            )

    @torch.no_grad()
    def _start_rows(self, first: int, last: int) -> None:
        tables = {id(m.weight): m.weight for m in self.embedding_layers()}
        for weight in tables.values():
            weight[first:last] = reduce(weight[:first], "row width -> width", "mean")

    def embedding_layers(self) -> list[Any]:
        """The embedding and, where there is one, the output head; their weights may be tied."""
        head = self.model.get_output_embeddings()
        return [self.model.get_input_embeddings(), *([head] if head is not None else [])]

    def embed(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s e"]:
        """Embeddings of ``ids``."""
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
        """Logits of every position, or of the positions ``logits_to_keep`` alone, which saves the head.

        Without ``attention_mask`` the plain causal kernel runs and no mask is built: right for
        batches without padding, and for padding on the right, which no earlier position sees.
        ``segments`` are the lengths of the documents packed into one row: none sees another, and
        positions start anew in each. A segment of several lengths is what some documents begin with,
        then the rest of each, whose positions go on from there.

        With a ``cache`` of :meth:`new_cache` the embeddings go on from what it holds, and are added to it.
        ``attention_mask`` then covers the cache as well; positions count what it does not mask.

        Raises:
            ValueError: ``segments`` beside a mask, positions or a cache, or the model cannot be packed.
        """
        self._check_family(embeddings, attention_mask)
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
            options |= continued(embeddings, attention_mask, position_ids, cache)
        elif attention_mask is not None and position_ids is None and rotary_by_length(self.model):
            options["position_ids"] = positions_of(attention_mask)
        if logits_to_keep is not None:
            options["logits_to_keep"] = logits_to_keep
        with prompts(self.model, getattr(cache, "prompt_lengths", ())):
            out = self.model(inputs_embeds=embeddings, use_cache=cache is not None, **options)
        logits: Tensor = out.logits
        return logits

    def _check_family(self, embeddings: Tensor, mask: Tensor | None) -> None:
        """What could not be asked at build is asked at the first call."""
        if embeddings.is_meta:
            return
        self._family.check_embeddings()
        self._family.check_causality()
        if mask is not None:
            self._family.choose_attention()
            self._family.check_padding(mask)

    def new_cache(self, prompt_lengths: Sequence[int] | None = None) -> Cache:
        """An empty cache of keys and values, one for each batch of prompts.

        Args:
            prompt_lengths: the lengths of the prompts without padding, where they are read in several
                calls: rotary rules that go by the length of a text then know the whole length.

        Raises:
            ValueError: the model keeps what it has read in another way than a cache of transformers.
        """
        past = empty_cache(self.model)
        past.prompt_lengths = tuple(prompt_lengths or ())
        if self.rules is not None and prompt_lengths is not None:
            self.rules.prepare(past, prompt_lengths, self.model.device)
        cache: Cache = past
        return cache

    def config_node(self) -> dict[str, Any]:
        """The plain node that builds this model without its weights; the tokenizer is left out."""
        kind = type(self)
        module = "hdvl.llms" if kind is CausalLM else kind.__module__
        return {
            "_target_": f"{module}.{kind.__qualname__}.from_config",
            "config": plain_numbers(self.model.config),
            "stop_ids": list(self.stop_ids),
            **{
                name: {"_target_": f"hdvl.llms.{type(value).__name__}", **asdict(value)}
                for name, value in (("rules", self.rules), ("quantisation", self.quantisation))
                if value is not None
            },
        }

    @torch.no_grad()
    def generate(
        self,
        embeddings: Float[Tensor, "b s e"],
        attention_mask: Int[Tensor, "b s"] | None = None,
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        stop_ids: Sequence[int] | None = None,
        ended: Callable[[list[int]], bool] | None = None,
        streamer: Any = None,
    ) -> Int[Tensor, "b new"]:
        """Continue ``embeddings`` (padding, if any, on the left) and return the new ids only.

        A row ends with its stop id; shorter rows are filled with the pad id after it.

        Args:
            embeddings: prompts, padded on the left.
            attention_mask: 0 where a prompt is padding; ``None`` when none is.
            max_new_tokens: most ids of an answer.
            do_sample: draw instead of taking the likeliest id.
            temperature: divides the logits, when drawing; an error otherwise, as the next two.
            top_p: draw among the likeliest ids of this total probability.
            top_k: draw among this many ids; 0 for all.
            repetition_penalty: divides the logits of ids already said (not those of the prompt).
            stop_ids: ids that end an answer; ``None`` takes the model's own, or else the
                tokenizer's end of sequence.
            ended: says of an answer's ids so far whether it ends here, beside ``stop_ids``.
            streamer: is handed ids as they come, as transformers' streamers are.
        """
        if attention_mask is None:
            attention_mask = torch.ones(
                embeddings.shape[:2], dtype=torch.long, device=embeddings.device
            )
        self._check_family(embeddings, attention_mask)
        sampling = generation.sampling(do_sample, temperature=temperature, top_p=top_p, top_k=top_k)
        ids: Tensor = self.model.generate(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            generation_config=generation.settings(
                generation.end_ids(self.stop_ids, self.tokenizer)
                if stop_ids is None
                else list(stop_ids),
                self.tokenizer,
                max_new_tokens=generation.room(max_new_tokens, self.context, embeddings.shape[1]),
                **sampling,
            ),
            logits_processor=generation.penalty(repetition_penalty),
            stopping_criteria=generation.criteria(ended),
            streamer=streamer,
        )
        return ids
