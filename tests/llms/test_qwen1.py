"""Dynamic NTK and LogN against Qwen-1's arithmetic as plain functions, prompt and steps."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hdvl.decoding import generate
from hdvl.llms import CausalLM, Qwen1Rules
from tests.qwen_vl_reference import qwen

LENGTH = 16
ATOL = 5e-5


def described(**changes: Any) -> dict[str, Any]:
    """A tiny configuration in the published spelling."""
    return {
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "kv_channels": 8,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000.0,
        "seq_length": LENGTH,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
    } | changes


def built(config: dict[str, Any], **rules: Any) -> CausalLM:
    """The same model of hdvl's with random weights, in evaluation mode."""
    own = {"seq_length": config["seq_length"], "dynamic_ntk": config["use_dynamic_ntk"]}
    llm = CausalLM.from_config(
        config={
            "model_type": "qwen2",
            "vocab_size": 40,
            "hidden_size": 24,
            "num_hidden_layers": config["num_hidden_layers"],
            "num_attention_heads": config["num_attention_heads"],
            "num_key_value_heads": config["num_attention_heads"],
            "head_dim": config["kv_channels"],
            "intermediate_size": 32,
            "rms_norm_eps": config["layer_norm_epsilon"],
            "rope_parameters": {"rope_type": "default", "rope_theta": config["rotary_emb_base"]},
            "tie_word_embeddings": False,
        },
        rules=Qwen1Rules(**own | {"logn": config["use_logn_attn"]} | rules),
    )
    with torch.no_grad():
        for name, value in llm.model.named_parameters():
            value.normal_(std=0.1 if value.ndim == 1 else value.shape[-1] ** -0.5)
            if name.endswith("norm.weight"):
                value += 1
    return llm.eval()


def published(llm: CausalLM) -> dict[str, Tensor]:
    """The model's weights under Qwen-1's names."""
    state, found = llm.model.state_dict(), dict[str, Tensor]()
    for number in range(llm.model.config.num_hidden_layers):
        ours, theirs = f"model.layers.{number}.", f"transformer.h.{number}."
        for kind in ("weight", "bias"):
            thirds = [state[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{theirs}attn.c_attn.{kind}"] = torch.cat(thirds)
        names = {
            "self_attn.o_proj": "attn.c_proj",
            "mlp.gate_proj": "mlp.w2",
            "mlp.up_proj": "mlp.w1",
            "mlp.down_proj": "mlp.c_proj",
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
        }
        for own, name in names.items():
            found[f"{theirs}{name}.weight"] = state[f"{ours}{own}.weight"]
    found["transformer.ln_f.weight"] = state["model.norm.weight"]
    found["lm_head.weight"] = state["lm_head.weight"]
    return found


def close(ours: Tensor, wanted: Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(ours, wanted, atol=atol, rtol=0)


@pytest.mark.slow_beyond(6)
@pytest.mark.parametrize("flags", list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize("length", [5, 16, 17, 33, 70])
def test_logits_are_those_of_the_description(length: int, flags: tuple[bool, bool]) -> None:
    config = described(use_dynamic_ntk=flags[0], use_logn_attn=flags[1])
    llm, x = built(config), torch.randn(1, length, 24)
    with torch.no_grad():
        close(llm(x)[0], qwen(published(llm), x[0], config))


@pytest.mark.slow_beyond(2)
@pytest.mark.parametrize("prompt", [3, 15, 16, 30, 33])
def test_steps_through_the_cache_keep_the_alpha_of_the_prompt(prompt: int) -> None:
    config = described()
    llm, x = built(config), torch.randn(1, prompt + 24, 24)
    wanted = qwen(published(llm), x[0], config, prompt)
    with torch.no_grad():
        out = llm.model(inputs_embeds=x[:, :prompt], use_cache=True)
        close(out.logits[0], wanted[:prompt])
        for place in range(prompt, prompt + 24):
            out = llm.model(
                inputs_embeds=x[:, place : place + 1], past_key_values=out.past_key_values
            )
            close(out.logits[0, 0], wanted[place])


def test_generate_equals_the_description() -> None:
    config = described()
    llm, x = built(config), torch.randn(1, 30, 24)
    said = generate(llm, x, max_new_tokens=12, stop_ids=[])[0]
    state, rows = published(llm), x[0]
    for new in said:
        logits = qwen(state, rows, config, prompt=30)
        assert int(logits[-1].argmax()) == int(new)
        rows = torch.cat((rows, llm.embed(new[None, None])[0]))


@pytest.mark.parametrize("lengths", [(10, 40), (17, 33, 64)])
def test_padding_on_the_left_changes_nothing(lengths: tuple[int, ...]) -> None:
    """Each row of a batch has its own alpha and counts its own tokens: in the prompt and after it."""
    config = described()
    llm, longest = built(config), max(lengths)
    state, steps = published(llm), 3
    rows = [torch.randn(length + steps, 24) for length in lengths]
    batch = torch.zeros(len(rows), longest + steps, 24)
    mask = torch.zeros(len(rows), longest + steps, dtype=torch.long)
    for number, row in enumerate(rows):
        batch[number, -len(row) :], mask[number, -len(row) :] = row, 1
    with torch.no_grad():
        whole = llm(batch, mask)
        past, pieces = None, []
        for begin, end in [(0, longest), *((longest + i, longest + i + 1) for i in range(steps))]:
            out = llm.model(
                inputs_embeds=batch[:, begin:end],
                attention_mask=mask[:, :end],
                past_key_values=past,
                use_cache=True,
            )
            past = out.past_key_values
            pieces.append(out.logits)
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        close(whole[number, -len(row) :], qwen(state, row, config))
        stepped = torch.cat(pieces, 1)[number, -len(row) :]
        close(stepped, qwen(state, row, config, length))


def test_generate_in_a_batch_equals_single_generation() -> None:
    llm = built(described())
    rows = [torch.randn(1, length, 24) for length in (9, 40)]
    batch = torch.cat((torch.cat((torch.ones(1, 31, 24), rows[0]), 1), rows[1]))
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[0, :31] = 0
    together = generate(llm, batch, mask, max_new_tokens=10, stop_ids=[])
    for row, said in zip(rows, together, strict=True):
        assert torch.equal(said, generate(llm, row, max_new_tokens=10, stop_ids=[])[0])


def test_padding_counts_if_asked() -> None:
    """As in the published code, padding on the left counts towards the length of the prompt."""
    config = described()
    llm, row = built(config, count_padding=True), torch.randn(1, 12, 24)
    padded = torch.cat((torch.zeros(1, 30, 24), row), 1)
    mask = torch.ones(1, 42, dtype=torch.long)
    mask[:, :30] = 0
    with torch.no_grad():
        counted = llm(padded, mask)[0, 30:]
    close(counted, qwen(published(llm), padded[0], config, padding=30)[30:])
    assert (counted - qwen(published(llm), row[0], config)).abs().max() > 0.01


def test_packed_documents_are_read_as_if_alone() -> None:
    config = described()
    llm = built(config)
    documents = [torch.randn(1, length, 24) for length in (5, 40, 20)]
    with torch.no_grad():
        packed = llm(torch.cat(documents, 1), segments=[5, 40, 20])[0]
        for ours, document in zip(packed.split([5, 40, 20]), documents, strict=True):
            close(ours, qwen(published(llm), document[0], config))


def test_conversations_share_a_beginning_while_they_are_short() -> None:
    llm = built(described())
    row = torch.randn(1, 16, 24)
    together = llm(row, segments=((4, 5, 7),))
    for start, stop in ((4, 9), (9, 16)):
        alone = llm(torch.cat([row[:, :4], row[:, start:stop]], dim=1))
        torch.testing.assert_close(together[:, start:stop], alone[:, 4:], rtol=0, atol=ATOL)
    row = torch.randn(1, 32, 24)
    with pytest.raises(
        ValueError, match="seq_length=16 where dynamic_ntk is true, the longest has"
    ):
        llm(row, segments=((10, 4, 18),))
    llm = built(described(use_dynamic_ntk=False))
    together = llm(row, segments=((10, 4, 18),))
    alone = llm(torch.cat([row[:, :10], row[:, 14:]], dim=1))
    torch.testing.assert_close(together[:, 14:], alone[:, 10:], rtol=0, atol=ATOL)


def test_a_prompt_read_in_two_pieces() -> None:
    """The published code uses the number of heads as the cached length by mistake."""
    llm, x = built(described(use_dynamic_ntk=False)), torch.randn(1, 40, 24)
    with torch.no_grad():
        first = llm.model(inputs_embeds=x[:, :25], use_cache=True)
        second = llm.model(inputs_embeds=x[:, 25:], past_key_values=first.past_key_values)
        close(torch.cat((first.logits, second.logits), 1), llm(x))


def test_a_new_prompt_has_its_own_alpha() -> None:
    """The model keeps no state: earlier long prompts, and prompts read in between, have no effect."""
    llm, short, long = built(described()), torch.randn(1, 8, 24), torch.randn(1, 60, 24)
    with torch.no_grad():
        wanted = llm(short)
        out = llm.model(inputs_embeds=short[:, :7], use_cache=True)
        kept = copy.deepcopy(out.past_key_values)
        llm(long)
        assert torch.equal(llm(short), wanted)
        for past in (out.past_key_values, kept):
            step = llm.model(inputs_embeds=short[:, 7:], past_key_values=past)
            close(step.logits[:, -1], wanted[:, -1])


def test_rules_do_not_apply_in_training() -> None:
    llm, x = built(described()).train(), torch.randn(1, 50, 24)
    plain = built(described(use_dynamic_ntk=False, use_logn_attn=False)).train()
    plain.load_state_dict(llm.state_dict())
    assert torch.equal(llm(x), plain(x))
    assert not torch.allclose(llm.eval()(x), plain.eval()(x), atol=1e-3)


def test_short_texts_equal_qwen2() -> None:
    llm, x = built(described()), torch.randn(2, LENGTH, 24)
    plain = built(described(use_dynamic_ntk=False, use_logn_attn=False))
    plain.load_state_dict(llm.state_dict())
    with torch.no_grad():
        close(llm(x), plain(x), 1e-6)


def test_bfloat16() -> None:
    llm, x = built(described()), torch.randn(1, 50, 24)
    with torch.no_grad():
        wanted = llm(x)
        ours = llm.bfloat16()(x.bfloat16()).float()
    assert (ours - wanted).abs().max() < 0.08 * wanted.std()


@pytest.mark.parametrize(
    ("length", "base"), [(2048, 10000), (2049, 30527.7), (4096, 30527.7), (4097, 72195.9)]
)
def test_published_bases(length: int, base: float) -> None:
    from hdvl.llms.qwen1 import rotation

    config = built(described()).model.config
    config.head_dim = 128
    places = torch.tensor([[1]])
    doublings = Qwen1Rules(seq_length=2048)._doublings(torch.tensor([[length]]), None, 0)
    cos, sin = rotation(config, places, doublings, torch.float32)
    angle = torch.atan2(sin, cos)[0, 0, 63]  # base ** (-126 / 128)
    assert float(angle) == pytest.approx(base ** (-126 / 128), rel=1e-4)


def test_published_scales() -> None:
    scale = Qwen1Rules(seq_length=2048).query_scale(torch.tensor([[0, 2047, 4095, 8191]]))
    assert scale[0].tolist() == pytest.approx([1, 1, 1.0909, 1.1818], abs=1e-4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="seq_length must be at least 2, got 1"):
        Qwen1Rules(seq_length=1)
    llama = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match="need a model_type of qwen2, got 'llama'"):
        CausalLM.from_config(
            config=llama | {"num_attention_heads": 1, "intermediate_size": 8},
            rules=Qwen1Rules(seq_length=8),
        )
    llm, x = built(described()).train(), torch.randn(1, 20, 24)
    past = llm.model(inputs_embeds=x, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cache must have been filled by this model in eval"):
        llm.eval().model(inputs_embeds=x[:, :1], past_key_values=past)
    llm.model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="LogN needs the attention hdvl_segments, got eager"):
        llm(x)
