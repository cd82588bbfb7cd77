"""Any causal language model of transformers, behind the ``LLM`` protocol."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hdvl.llms.tokenizers import has_tokenizer, load_tokenizer


class CausalLM(nn.Module):
    """A causal language model that reads embeddings, and its tokenizer.

    ``tokenizer`` may be ``None`` (a folder of weights alone); whatever needs text then says so.
    """

    model: Any
    tokenizer: Any

    def __init__(self, *, model: nn.Module, tokenizer: Any = None) -> None:
        super().__init__()
        from transformers import GenerationConfig

        # Some checkpoints carry sampling settings that would fill in for whatever is not said.
        model.generation_config = GenerationConfig()
        self.model = model
        self.tokenizer = tokenizer
        if tokenizer is not None and len(tokenizer) > self.rows:
            raise ValueError(
                f"vocabulary of the model must hold the tokenizer's {len(tokenizer)} tokens, got "
                f"{self.rows} rows; leave vocab_size out, or give the tokenizer that belongs to it"
            )

    @classmethod
    def from_config(cls, *, config: Mapping[str, Any], tokenizer: Any = None) -> "CausalLM":
        """A model with random weights from a plain ``config``: ``model_type`` and its numbers.

        ``vocab_size`` follows from the tokenizer when ``config`` does not give it. Builds on the
        ``meta`` device too.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        numbers = dict(config)
        if "model_type" not in numbers:
            raise ValueError(
                f"config must name a model_type of transformers, got keys {sorted(numbers)}"
            )
        if tokenizer is not None:
            numbers.setdefault("vocab_size", len(tokenizer))
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                numbers.setdefault(name, getattr(tokenizer, name))
        resolved = AutoConfig.for_model(numbers.pop("model_type"), **numbers)
        model = AutoModelForCausalLM.from_config(resolved, attn_implementation="sdpa")
        return cls(model=model, tokenizer=tokenizer)

    @classmethod
    def from_pretrained(
        cls, path: str, *, tokenizer: Any = None, dtype: str = "float32"
    ) -> "CausalLM":
        """The model in a local folder or of a hub name: safetensors only, no code from there.

        Args:
            path: a folder, or a name on the hub.
            tokenizer: in place of the one that lies with the weights.
            dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (as stored).

        Raises:
            ValueError: keys are missing, left over or of another shape; the message lists them.
        """
        from transformers import AutoModelForCausalLM

        local = Path(path).is_dir()
        if not local and path.startswith((".", "/", "~")):
            raise ValueError(f"model folder must exist, got {path!r}; check the path")
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            output_loading_info=True,
        )
        faults = {name: sorted(map(str, keys)) for name, keys in report.items() if keys}
        if faults:
            raise ValueError(f"weights in {path!r} must match the model exactly, got {faults}")
        if tokenizer is None and (not local or has_tokenizer(path)):
            tokenizer = load_tokenizer(path)
        return cls(model=model, tokenizer=tokenizer)

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return int(self.model.get_input_embeddings().weight.shape[1])

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
        old = len(self.tokenizer)
        vocabulary = self.tokenizer.get_vocab()
        new = [token for token in dict.fromkeys(tokens) if token not in vocabulary]
        self.tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in new])
        if len(self.tokenizer) > self.rows:
            self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        if new:
            self._start_rows(old, len(self.tokenizer))
        return len(new)

    @torch.no_grad()
    def _start_rows(self, first: int, last: int) -> None:
        tables = {id(m.weight): m.weight for m in self._tables()}
        for weight in tables.values():
            weight[first:last] = reduce(weight[:first], "row width -> width", "mean")

    def _tables(self) -> list[Any]:
        head = self.model.get_output_embeddings()
        return [self.model.get_input_embeddings(), *([head] if head is not None else [])]

    def embed(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s e"]:
        """Embeddings of ``ids``."""
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        return embeddings

    def forward(
        self,
        embeddings: Float[Tensor, "b s e"],
        attention_mask: Int[Tensor, "b s"] | Bool[Tensor, "b s"] | None = None,
        position_ids: Int[Tensor, "b s"] | None = None,
        *,
        keep: Int[Tensor, " k"] | None = None,
    ) -> Float[Tensor, "b _k v"]:
        """Logits of every position, or of the positions ``keep`` alone, which saves the head.

        Without ``attention_mask`` the plain causal kernel runs and no mask is built: right for
        batches without padding, and for padding on the right, which no earlier position sees.
        ``position_ids`` that start anew within a row, without a mask, separate packed samples.
        """
        logits: Tensor = self.model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **({} if keep is None else {"logits_to_keep": keep}),
        ).logits
        return logits

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
        streamer: Any = None,
    ) -> Int[Tensor, "b new"]:
        """Continue ``embeddings`` (padding, if any, on the left) and return the new ids only.

        A row ends with its stop id; shorter rows are filled with the pad id after it.

        Args:
            embeddings: prompts, padded on the left.
            attention_mask: 0 where a prompt is padding; ``None`` when none is.
            max_new_tokens: most ids of an answer.
            do_sample: draw instead of taking the likeliest id.
            temperature: divides the logits, when drawing.
            top_p: draw among the likeliest ids of this total probability.
            top_k: draw among this many ids; 0 for all.
            repetition_penalty: divides the logits of ids already said (not those of the prompt).
            stop_ids: ids that end an answer; ``None`` takes the tokenizer's end of sequence.
            streamer: is handed ids as they come, as transformers' streamers are.
        """
        if attention_mask is None:
            attention_mask = torch.ones(
                embeddings.shape[:2], dtype=torch.long, device=embeddings.device
            )
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        ids: Tensor = self.model.generate(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            generation_config=self._settings(
                self._end_ids() if stop_ids is None else list(stop_ids),
                max_new_tokens=max_new_tokens,
                do_sample=do_sample,
                **(sampling if do_sample else {}),
            ),
            logits_processor=_penalty(repetition_penalty),
            streamer=streamer,
        )
        return ids

    def _end_ids(self) -> list[int]:
        if self.tokenizer is None or self.tokenizer.eos_token_id is None:
            raise ValueError(
                "generate needs stop_ids, this model has no tokenizer with an end token"
            )
        return [int(self.tokenizer.eos_token_id)]

    def _settings(self, stop: list[int], **options: Any) -> Any:
        from transformers import GenerationConfig

        pad = None if self.tokenizer is None else self.tokenizer.pad_token_id
        if pad is None:
            pad = stop[0] if stop else 0
        return GenerationConfig(eos_token_id=stop or None, pad_token_id=pad, **options)


def _penalty(strength: float) -> Any:
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

    # Given as a setting it would warn that ids of the prompt are not seen: there are none.
    found = [] if strength == 1.0 else [RepetitionPenaltyLogitsProcessor(strength)]
    return LogitsProcessorList(found)
