"""Ranks: what the fullest rank of a stage gets, by hand and by its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ranks import Ranks, dealt


def test_pieces_go_round_and_the_last_one_may_be_small() -> None:
    # Pieces of 10 to 4 ranks: 7, 10 and 40 leave one piece on the fullest, 41 to 50
    # start its second, 75 finds ranks with 20, 20, 20 and 15.
    amounts = np.array([7.0, 10, 40, 41, 50, 75, 80])
    assert dealt(amounts, 4, 10.0).tolist() == [7, 10, 10, 11, 20, 20, 20]


def test_decodes_are_rounded_up_to_whole_requests() -> None:
    ranks = Ranks(attention_dp=8)
    batch = np.array([1.0, 8, 9, 16, 17, 1000])
    assert ranks.decoded(batch).tolist() == [1, 1, 2, 2, 3, 125]
    # One of nine requests shares its rank: two of nine caches are there.
    assert ranks.kv_share(9.0) == pytest.approx(2 / 9)
    assert ranks.kv_share(1.0) == 1.0


def test_a_lone_prompt_is_on_one_attention_rank_and_on_all_context_ranks() -> None:
    assert Ranks(attention_dp=8).prefilled(500.0, prompt_tokens=1000.0) == 500.0
    assert Ranks(cp=8).prefilled(800.0) == 100.0
    both = Ranks(attention_dp=2, cp=4)
    assert both.attended(3000.0, prompt_tokens=1000.0) == 2000.0
    assert both.prefilled(3000.0, prompt_tokens=1000.0) == 500.0


def test_context_ranks_decode_the_same_requests_against_parts_of_the_cache() -> None:
    assert Ranks(cp=4).decoded(10.0) == 10.0
    assert Ranks(cp=4).kv_share(10.0) == 0.25


def test_one_rank_has_it_all() -> None:
    assert Ranks().count == 1
    assert Ranks().prefilled(12345.0, prompt_tokens=100.0) == 12345.0
    assert Ranks().kv_share(7.0) == 1.0


@given(
    amount=st.integers(1, 10**6),
    more=st.integers(0, 1000),
    num_ranks=st.integers(1, 64),
    piece=st.integers(1, 5000),
)
def test_the_fullest_rank_is_between_an_even_share_and_one_piece_above(
    amount: int, more: int, num_ranks: int, piece: int
) -> None:
    fullest = dealt(float(amount), num_ranks, float(piece))
    even = amount / num_ranks
    assert max(even, min(amount, piece)) <= fullest + 1e-6
    assert fullest <= min(amount, even + piece) + 1e-6
    assert dealt(float(amount + more), num_ranks, float(piece)) >= fullest
    if piece == 1 and num_ranks > 1:
        assert fullest == -(-amount // num_ranks)
