"""Synthetic conversations."""

import pytest

from hdvl.data.conversations import SyntheticConversations
from hdvl.data.synthetic import SyntheticDocuments
from hdvl.protocols import SharedPrefix
from hdvl.templates import Norm1000


def synthetic(**options):
    documents = SyntheticDocuments(seed=0, width=(300, 400), height=(240, 300), entries=(2, 4))
    return SyntheticConversations(documents=documents, boxes=Norm1000(), **options)


def test_a_synthetic_conversation_has_its_image_in_the_first_turn():
    messages = synthetic(turns=3)[4]
    assert [message.role for message in messages[:2]] == ["user", "assistant"]
    assert len(messages[0].images) == 1
    assert all(not message.images for message in messages[1:])
    assert len(messages) <= 6


def test_it_follows_from_the_index():
    one, other = synthetic()[7], synthetic()[7]
    assert [m.text for m in one] == [m.text for m in other]


def test_comparison_shows_two_images():
    messages = synthetic(compare_share=1.0)[0]
    assert len(messages) == 2 and len(messages[0].images) == 2


def test_independent_questions_are_conversations_of_their_own():
    several, turns = synthetic(turns=3, independent=True)[4], synthetic(turns=3)[4]
    assert isinstance(several, SharedPrefix) and len(several.conversations) == len(turns) // 2 > 1
    for number, messages in enumerate(several.conversations):
        assert [m.text for m in messages] == [m.text for m in turns[2 * number : 2 * number + 2]]
        assert messages[0].images[0] is several.conversations[0][0].images[0]
    # One question is one conversation.
    assert isinstance(synthetic(turns=1, independent=True)[4], list)
    assert isinstance(synthetic(compare_share=1.0, independent=True)[0], list)


def test_wrong_shares_and_indices_are_refused():
    with pytest.raises(ValueError, match=r"locate_share must be in 0..1, got 2.0"):
        synthetic(locate_share=2.0)
    with pytest.raises(ValueError, match="length and turns must be at least 1"):
        synthetic(turns=0)
    with pytest.raises(IndexError, match="conversation 5 is not in"):
        synthetic(length=5)[5]
