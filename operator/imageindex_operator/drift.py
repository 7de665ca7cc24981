"""Whether a live object already is as it should be, so that a quiet cluster is written to by nobody.

Compared are the fields that a manifest names. What the API server or others added is no difference; a value that it
wrote in another way (`1000m` as `1`), or left out because it says nothing, is none either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

_KEYS: Final = ("name", "mountPath", "containerPort", "uid", "type")
_QUANTITIES: Final = frozenset({"limits", "requests", "target", "sizeLimit"})
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_FACTORS: Final = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def agrees(live: Any, wanted: Any, *, quantities: bool = False) -> bool:
    """Whether everything that `wanted` names is so in `live`. Below `limits` and the like, quantities are compared."""
    if isinstance(wanted, Mapping):
        if live is None or live == "":
            live = {}
        return isinstance(live, Mapping) and all(
            agrees(live.get(key), value, quantities=quantities or key in _QUANTITIES) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return _lists_agree(live or [], wanted)
    if wanted in (None, "", False, 0) and live is None:
        return True
    if quantities and isinstance(wanted, str) and isinstance(live, str):
        return quantity(live) == quantity(wanted)
    return bool(live == wanted)


def quantity(text: str) -> Decimal | str:
    """A quantity as a number; text that is none as it is."""
    found = _QUANTITY.fullmatch(text)
    if not found:
        return text
    return Decimal(found[1]) * _FACTORS.get(found[2] or "", Decimal(1))


def _lists_agree(live: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Lists of things that have a name are compared by it, and may hold more; others item by item."""
    key = next(
        (key for key in _KEYS if wanted and all(isinstance(one, Mapping) and key in one for one in wanted)), None
    )
    if key is not None and len({one[key] for one in wanted}) == len(wanted):
        there = {one.get(key): one for one in live if isinstance(one, Mapping)}
        return all(one[key] in there and agrees(there[one[key]], one) for one in wanted)
    return len(live) == len(wanted) and all(map(agrees, live, wanted))
