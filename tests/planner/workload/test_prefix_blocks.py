"""Prefix blocks: rows in flat arrays, chosen, repeated and checked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.fields import InputError
from planner.workload.prefix_blocks import PrefixBlocks

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), max_size=8)


@given(ROWS)
def test_rows_are_kept(rows):
    blocks = PrefixBlocks.of(rows)
    assert blocks.rows() == tuple(rows)
    assert len(blocks) == len(rows)


@given(ROWS.filter(len), st.data())
def test_chosen_rows_are_those_of_the_index(rows, data):
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    taken = PrefixBlocks.of(rows).take(np.array(index, dtype=np.int64))
    assert taken.rows() == tuple(rows[i] for i in index)


@given(ROWS)
def test_repeated_blocks_are_those_of_a_cache_without_limit(rows):
    held: set[int] = set()
    expected = []
    for row in rows:
        run = next((i for i, block in enumerate(row) if block not in held), len(row))
        expected.append(run)
        held.update(row)
    assert PrefixBlocks.of(rows).num_repeated().tolist() == expected


def test_laps_share_no_ids():
    # Ids 3 to 5: a lap is 3 apart.
    blocks = PrefixBlocks.of(((3, 5), (4,), (3,)))
    assert blocks.renamed(np.array([0, 1, 2])).rows() == ((3, 5), (7,), (9,))
    assert blocks.renamed(np.zeros(3, dtype=np.int64)) is blocks


@pytest.mark.parametrize("offsets", [[0, 2], [0, 2, 1, 3], [1, 3], []])
def test_offsets_that_do_not_cover_the_ids_are_refused(offsets):
    with pytest.raises(InputError, match="offsets"):
        PrefixBlocks(
            ids=np.arange(3), offsets=np.array(offsets, dtype=np.int64), block_tokens=16
        )
