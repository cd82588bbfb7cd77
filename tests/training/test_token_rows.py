"""Rows of new tokens can be trained without any other row."""

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from hdvl.model import VLM
from hdvl.processor import Batch, Processor, collate
from hdvl.protocols import Message
from hdvl.training.audit import tuning_table
from hdvl.training.groups import parameter_groups
from hdvl.training.tuning import MODULES, apply_tuning, merge_lora
from tests.tiny_model import tiny_node, tiny_vlm
from tests.training.test_combinations import LORA, logits_of, train


def model(*, tied: bool, **config: Any) -> VLM:
    """The tiny model, its head tied to the embeddings or not."""
    config = tiny_node()["llm"]["config"] | {"tie_word_embeddings": tied} | config
    return tiny_vlm(tiny_node(llm={"config": config}))


def batch_of(vlm: VLM) -> Batch:
    """A conversation about a grey image, whose tags are new tokens."""
    turns = [
        Message("user", "Where is it?", (Image.new("RGB", (64, 32), (99, 99, 99)),)),
        Message("assistant", "<ref>it</ref><box>(1,2),(3,4)</box>"),
    ]
    return collate([Processor.of(vlm)(turns)], pad_id=vlm.llm.tokenizer.pad_token_id)


def tables(vlm: VLM) -> list[Tensor]:
    """Copies of the embeddings and of the head."""
    return [table.weight.detach().clone() for table in vlm.llm.embedding_layers()]


def rows_moved(before: list[Tensor], vlm: VLM) -> list[set[int]]:
    """For each table the rows that differ."""
    return [
        set((old != new).any(dim=1).nonzero().flatten().tolist())
        for old, new in zip(before, tables(vlm), strict=True)
    ]


def tuning(**changes: Any) -> dict[str, Any]:
    """All frozen but for new tokens, and ``changes``."""
    return dict.fromkeys(MODULES, "frozen") | {"lora": LORA, "new_tokens": "full"} | changes


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("llm", ["frozen", "lora"])
def test_only_new_rows_move(tied: bool, llm: str) -> None:
    vlm = model(tied=tied)
    new = set(vlm.llm.new_ids) - {vlm.image_token_id}
    assert len(new) == 4, "the tags of references and boxes"
    batch, before = batch_of(vlm), tables(vlm)
    start = {name: value.clone() for name, value in vlm.state_dict().items()}
    train(vlm, batch, tuning(llm=llm))
    trained = logits_of(vlm, batch)
    merge_lora(vlm)
    assert rows_moved(before, vlm) == [new, new]
    torch.testing.assert_close(logits_of(vlm, batch), trained, rtol=0, atol=2e-4)
    embedding, head = (table.weight for table in vlm.llm.embedding_layers())
    assert (embedding is head) is tied
    assert vlm.state_dict().keys() == start.keys()
    moved = {name for name, value in vlm.state_dict().items() if not value.equal(start[name])}
    low_rank = {name for name in moved if "_proj" in name}
    assert moved - low_rank == {"llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight"}
    assert bool(low_rank) is (llm == "lora")


def test_rows_start_as_the_identity() -> None:
    vlm = model(tied=True)
    batch = batch_of(vlm)
    plain = logits_of(vlm, batch)
    apply_tuning(vlm, tuning())
    assert logits_of(vlm, batch).equal(plain)


def test_chosen_tokens_instead_of_the_new_ones() -> None:
    vlm = model(tied=False)
    wanted = vlm.llm.tokenizer.convert_tokens_to_ids("<box>")
    before = tables(vlm)
    train(vlm, batch_of(vlm), tuning(tokens=["<box>"]))
    merge_lora(vlm)
    assert rows_moved(before, vlm) == [{wanted}, {wanted}]


def test_new_rows_stay_where_the_rest_trains() -> None:
    vlm = model(tied=True)
    new = set(vlm.llm.new_ids) - {vlm.image_token_id}
    before = tables(vlm)
    train(vlm, batch_of(vlm), tuning(llm="full", new_tokens="frozen"))
    merge_lora(vlm)
    assert not rows_moved(before, vlm)[0] & new


def test_new_rows_have_a_rate_of_their_own(optimizer_node: dict[str, Any]) -> None:
    vlm = model(tied=False)
    chosen = tuning(bridge="full")
    apply_tuning(vlm, chosen)
    options = {"new_tokens": {"lr": 1e-3, "decay_embeddings": False}}
    groups = {
        group["name"]: group
        for group in parameter_groups(vlm, options, optimizer_node["common"] | {"lr": 1e-5})
    }
    rows = groups["new_tokens/no_decay"]
    assert (rows["lr"], rows["weight_decay"]) == (1e-3, 0.0)
    assert [tuple(p.shape) for p in rows["params"]] == [(4, 32), (4, 32)]
    assert groups["bridge"]["lr"] == 1e-5
    lines = [line.split() for line in tuning_table(vlm, chosen).splitlines()]
    assert lines[-1] == ["new_tokens", "full", "256", "of", "256", "train"]
    assert lines[-2][:3] == ["llm", "frozen", "0"]


def test_wrong_tokens_are_named() -> None:
    vlm = model(tied=True)
    with pytest.raises(
        ValueError, match=r"tuning.tokens must be in the vocabulary, <quad> are not"
    ):
        apply_tuning(vlm, tuning(tokens=["<box>", "<quad>"]))
    with pytest.raises(ValueError, match=r"tuning\.new_tokens needs new tokens, the vocabulary"):
        apply_tuning(vlm, tuning(tokens=[]))
