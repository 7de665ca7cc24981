"""When to stop asking, and when to try again."""

from __future__ import annotations

import pytest

from engine.breaker import FAILURES, FIRST_REST_S, LONGEST_REST_S, Breaker


class Bench:
    """A breaker with a clock that goes when told to, and chances that are given."""

    def __init__(self, chance: float = 0.0) -> None:
        self.now = 100.0
        self.breaker = Breaker(lambda: self.now, lambda: chance)

    def opened(self) -> Breaker:
        """The breaker, after as many failures as it takes."""
        assert [self.breaker.failed() for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
        return self.breaker

    def rest(self) -> float:
        """Seconds until the next trial is due, in steps of 1/64 s."""
        started = self.now
        while not self.breaker.due:
            self.now += 1 / 64
        return self.now - started


def test_it_opens_after_failures_in_a_row():
    """A success between them starts the count again."""
    breaker = Bench().breaker
    for _ in range(3 * FAILURES):
        for _ in range(FAILURES - 1):
            assert not breaker.failed()
        assert not breaker.succeeded()
    assert breaker.closed
    assert not breaker.due


def test_an_open_breaker_is_due_after_its_rest():
    """And stays open meanwhile; failures of those who asked before do not prolong it."""
    bench = Bench()
    breaker = bench.opened()
    for _ in range(20):
        assert not breaker.failed()
    assert not breaker.closed
    assert bench.rest() == FIRST_REST_S
    assert not breaker.closed


def test_each_failed_trial_doubles_the_rest_up_to_a_limit():
    """And a success brings back the first."""
    bench = Bench()
    breaker = bench.opened()
    rests = []
    for _ in range(8):
        rests.append(bench.rest())
        breaker.trial_failed()
    assert rests == [min(FIRST_REST_S * 2**number, LONGEST_REST_S) for number in range(8)]
    assert rests[-1] == rests[-2] == LONGEST_REST_S
    assert breaker.succeeded()
    assert breaker.closed
    bench.opened()
    assert bench.rest() == FIRST_REST_S


@pytest.mark.parametrize(("chance", "share"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_chance_shortens_the_rest_by_up_to_a_half(chance: float, share: float):
    """So that not all servers try at the same moment."""
    bench = Bench(chance)
    bench.opened()
    assert bench.rest() == FIRST_REST_S * share
