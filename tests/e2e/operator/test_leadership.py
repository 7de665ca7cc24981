"""Three operators and one Lease on a real API server."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.e2e.operator.conftest import PATIENCE_S, Operator, Shop, eventually

pytestmark = pytest.mark.programs

LEADING, WAITING = "leading", "waiting for the lease"


def test_of_three_replicas_another_leads_within_two_minutes_when_the_leader_is_killed(
    operators: Callable[..., Operator], shop: Shop
):
    """In the middle of a rollout: the other two go on with the same one, and one of them works at a time."""
    assert PATIENCE_S <= 120
    one, *others = (operators(name) for name in ("one", "two", "three"))
    everyone = [one, *others]
    eventually(lambda: sorted(each.probe("/readyz") for each in everyone), [LEADING, WAITING, WAITING])
    leader = next(each for each in everyone if each.probe("/readyz") == LEADING)
    left = [each for each in everyone if each is not leader]
    shop.apply()
    eventually(lambda: len(shop.children("jobs")), 1)
    (job,), pending = shop.children("jobs"), shop.pending()
    leader.end(signal.SIGKILL)
    eventually(lambda: sorted(each.probe("/readyz") for each in left), [LEADING, WAITING])
    shop.build(pending)
    shop.ring()
    eventually(lambda: shop.condition("Ready"), "True Serving")
    assert shop.served() == [pending]
    assert [one["metadata"]["uid"] for one in shop.children("jobs")] == [job["metadata"]["uid"]]
    shop.delete("services", "shop")
    eventually(lambda: len(shop.children("services")), 1)
    assert [each.visits() > 0 for each in left].count(True) == 1
