from __future__ import annotations

import heapq
from contextlib import ExitStack

import pytest

from engine.admission import LEAST, PATIENCE, Admission
from engine.errors import Overloaded
from observability import metrics

ALONE_S = 0.01


class Machine:
    """Searches on a clock of its own: `together` of them take as long as one, more take longer in proportion."""

    def __init__(self, together: int) -> None:
        self.now = 0.0
        self.together = together
        self.admission = Admission(clock=lambda: self.now)
        self.took: list[float] = []
        self.kind: str | None = "search"
        self._ends: list[tuple[float, int, float, ExitStack]] = []
        self._number = 0

    def offer(self) -> bool:
        """A search comes; whether it is let in."""
        stack = ExitStack()
        try:
            stack.enter_context(self.admission.admitted()).kind = self.kind
        except Overloaded:
            return False
        takes = ALONE_S * max(1.0, (len(self._ends) + 1) / self.together)
        self._number += 1
        heapq.heappush(self._ends, (self.now + takes, self._number, self.now, stack))
        return True

    def finish(self) -> None:
        """The next search is done."""
        end, _, since, stack = heapq.heappop(self._ends)
        self.now = end
        self.took.append(end - since)
        stack.close()

    def flood(self, searches: int) -> None:
        """So many are answered while more than the machine can bear are there all the time."""
        for _ in range(searches):
            while self.offer():
                pass
            self.finish()
        while self._ends:
            self.finish()

    def trickle(self, searches: int) -> None:
        """One at a time."""
        for _ in range(searches):
            assert self.offer()
            self.finish()
            self.now += 1.0


def test_a_flood_is_cut_to_what_keeps_searches_near_their_time_alone():
    machine = Machine(together=4)
    machine.trickle(20)
    machine.flood(2000)
    settled = machine.took[-500:-50]
    assert max(settled) <= 1.4 * PATIENCE * ALONE_S
    assert machine.admission.limit >= machine.together * PATIENCE / 1.5  # and not to less than the machine can do


def test_a_machine_that_bears_more_is_given_more():
    machine = Machine(together=200)
    machine.trickle(20)
    machine.flood(60_000)
    assert machine.admission.limit > 200
    assert max(machine.took) <= 1.4 * PATIENCE * ALONE_S


def test_the_limit_does_not_grow_without_demand():
    machine = Machine(together=4)
    before = machine.admission.limit
    machine.trickle(1000)
    assert machine.admission.limit == before


def test_a_machine_that_became_slower_for_good_is_learnt_again():
    """What counts as alone is measured anew when the limit has fallen as far as it can."""
    machine = Machine(together=50)
    machine.trickle(20)
    machine.flood(500)
    machine.together = 5  # ten times slower, as far as anybody can see
    machine.flood(3000)
    low = machine.admission.limit
    assert LEAST <= low < 40
    machine.together = 50
    machine.flood(5000)
    assert machine.admission.limit > low


def test_a_flood_from_the_very_start_does_not_teach_that_slow_is_normal():
    """A server that is started again in the middle of the day never sees a search alone."""
    machine = Machine(together=4)
    machine.flood(3000)
    settled = machine.took[-500:-50]
    assert max(settled) <= 1.4 * PATIENCE * ALONE_S
    assert machine.admission.limit >= machine.together * PATIENCE / 1.5


def test_a_few_clients_from_the_very_start_are_refused_nothing():
    """They are never alone either, but the limit is far."""
    machine = Machine(together=4)
    for _ in range(1000):
        while len(machine._ends) < 8:
            assert machine.offer()
        machine.finish()


def test_the_first_search_may_be_slow():
    """It finds everything cold, and must not be what others are compared with."""
    machine = Machine(together=4)
    assert machine.offer()
    machine.now += 100 * ALONE_S
    machine.finish()
    machine.trickle(20)
    machine.flood(2000)
    assert max(machine.took[-500:-50]) <= 1.4 * PATIENCE * ALONE_S


def test_slow_kinds_are_compared_with_their_own():
    """Deep pages take a hundred times as long, which does not mean that the machine is busy, nor that it may be."""
    admission_of = {}
    for with_slow_ones in (False, True):
        machine = Machine(together=4)
        machine.trickle(20)
        for _ in range(20 if with_slow_ones else 0):
            with machine.admission.admitted() as place:
                place.kind = "deep"
                machine.now += 100 * ALONE_S
        assert machine.admission.limit == 64
        machine.flood(2000)
        admission_of[with_slow_ones] = machine.admission.limit
    assert admission_of[True] == pytest.approx(admission_of[False], abs=4)


def test_who_is_refused_hears_how_long_a_place_takes():
    machine = Machine(together=1)
    machine.trickle(20)
    limit = machine.admission.limit
    with ExitStack() as places:
        for _ in range(limit):
            places.enter_context(machine.admission.admitted())
        with pytest.raises(Overloaded) as refused:
            places.enter_context(machine.admission.admitted())
    assert refused.value.retry_after_ms == pytest.approx(ALONE_S * 1000, abs=1)


def test_the_refused_are_told_to_come_back_one_after_another():
    """As fast as places become free, half of which are left to newcomers; for two seconds at most."""
    machine = Machine(together=1)
    machine.trickle(20)
    admission = machine.admission
    with admission.admitted(admission.limit):
        waits = [admission.refusal().retry_after_ms for _ in range(10_000)]
        assert waits[0] == pytest.approx(ALONE_S * 1000, abs=1)
        assert waits[200] == pytest.approx(ALONE_S * 1000 * (1 + 2 * 200 / admission.limit), abs=2)
        assert waits == sorted(waits)
        assert waits[-1] == pytest.approx(2000 + ALONE_S * 1000, abs=2)
        machine.now += 1.0
        assert admission.refusal().retry_after_ms == pytest.approx(1000 + ALONE_S * 1000, abs=2)


def test_places_that_failing_work_holds_count_too():
    """While the index hangs, a place is free in seconds, whatever good searches took before."""
    machine = Machine(together=1)
    machine.trickle(20)
    for _ in range(50):
        with machine.admission.admitted():
            machine.now += 5.0
    with machine.admission.admitted(1000), pytest.raises(Overloaded) as refused, machine.admission.admitted():
        pass
    assert 4000 < refused.value.retry_after_ms <= 5000


def test_several_searches_together_are_let_in_where_one_is():
    """Otherwise single ones would always take the place; then nobody else comes in until they are done."""
    admission = Admission()
    with ExitStack() as places:
        for _ in range(admission.limit - 1):
            places.enter_context(admission.admitted())
        with admission.admitted(10 * admission.limit):
            with pytest.raises(Overloaded), admission.admitted():
                pass
            assert admission.running == 11 * admission.limit - 1
    assert admission.running == 0


def test_several_searches_together_are_not_starved_by_a_flood_of_single_ones():
    machine = Machine(together=4)
    machine.trickle(20)
    machine.flood(500)
    while machine.offer():
        pass
    machine.finish()
    with machine.admission.admitted(5):
        assert not machine.offer()


def test_work_of_no_kind_takes_a_place_and_teaches_nothing():
    machine = Machine(together=1)
    machine.trickle(20)
    limit = machine.admission.limit
    for _ in range(1000):
        with machine.admission.admitted():
            assert machine.admission.running == 1
            machine.now += 100.0
    assert machine.admission.limit == limit


def test_work_that_fails_gives_its_place_back():
    admission = Admission()
    with pytest.raises(RuntimeError), admission.admitted():
        raise RuntimeError
    assert admission.running == 0


def test_what_is_wanted_is_what_runs_and_what_is_refused():
    """For autoscalers: refused searches count with the time that one takes on average."""
    machine = Machine(together=1)
    machine.trickle(20)
    limit, before = machine.admission.limit, metrics.search_demand._value.get()
    with machine.admission.admitted(limit):
        with pytest.raises(Overloaded), machine.admission.admitted(3):
            pass
        machine.admission.refusal(4)
        machine.now += 1.0
    assert metrics.search_demand._value.get() - before == pytest.approx(limit * 1.0 + (3 + 4) * ALONE_S)
