"""Which worker does which file."""

from __future__ import annotations

from collections import Counter

import pytest

from engine.errors import BadUserInput
from indexing.sharding import WHOLE, Shard

KEYS = [f"folder {number % 7}/{number}.jpg" for number in range(4000)] + ["", "a", "\udcff", "\u65e5.png"]


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_every_file_is_in_one_shard(count: int):
    """In one, and no shard is much larger than another."""
    owners = [[index for index in range(count) if Shard(index, count).owns(key)] for key in KEYS]
    assert {len(owner) for owner in owners} == {1}
    sizes = Counter(owner[0] for owner in owners)
    assert set(sizes) == set(range(count))
    assert max(sizes.values()) < 1.3 * len(KEYS) / count


def test_a_file_stays_in_its_shard():
    """On every machine and in every version: workers of one generation may be of two."""
    assert [Shard(index, 3).owns("a.jpg") for index in range(3)] == [True, False, False]
    assert all(map(WHOLE.owns, KEYS))


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0), (0, -1)])
def test_a_shard_that_can_not_be_is_refused(index: int, count: int):
    """The message says which numbers there are."""
    with pytest.raises(BadUserInput, match="numbered from 0"):
        Shard(index, count)
