from __future__ import annotations

from itertools import islice

from indexing.bench.queries import distinct_queries, repeated


def test_queries_are_all_different_and_of_the_length_that_people_type():
    """Five to seven words, the same for a seed, others for another."""
    some = list(islice(distinct_queries(1), 2000))
    assert len(set(some)) == 2000
    assert {len(query.split()) for query in some} == {5, 6, 7}
    assert some[:50] == list(islice(distinct_queries(1), 50))
    assert some[:50] != list(islice(distinct_queries(2), 50))


def test_a_share_of_them_is_repeated():
    """Three in ten were asked before, within the window; the others are new."""
    asked = list(islice(repeated(distinct_queries(1), 0.3, window=20), 2000))
    again = [at for at, query in enumerate(asked) if query in asked[:at]]
    assert 0.25 < len(again) / len(asked) < 0.35
    new = list(dict.fromkeys(asked))
    place = {query: at for at, query in enumerate(new)}
    seen = 0
    for query in asked:
        assert place[query] >= seen - 20
        seen = max(seen, place[query] + 1)
