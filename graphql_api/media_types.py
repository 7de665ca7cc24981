"""Which media type an answer has: what the client accepts, of what GraphQL over HTTP offers."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

JSON: Final = "application/json"
GRAPHQL: Final = "application/graphql-response+json"
HTML: Final = "text/html"

_NAMED: Final = 3


@lru_cache(256)
def preferred(accept: str, method: str) -> str | None:
    """What the header `Accept` likes best; None if it likes nothing. By GET, browsers get `text/html`, the explorer."""
    accept = accept.strip()
    if accept in {"", "*/*", JSON}:
        return JSON
    offers = (JSON, GRAPHQL, HTML) if method == "GET" else (JSON, GRAPHQL)

    def preference(offer: str) -> tuple[float, int, bool]:
        weight, precision = _quality(accept, offer)
        return weight, precision, offer == (GRAPHQL if precision == _NAMED else JSON)

    best = max(offers, key=preference)
    return best if preference(best)[0] else None


def _quality(accept: str, offer: str) -> tuple[float, int]:
    """The weight that an Accept header gives to a media type, and how precisely it names it; (0, 0) for not at all."""
    family = offer.partition("/")[0]
    best = (0.0, 0)
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        precision = {offer: _NAMED, f"{family}/*": 2, "*/*": 1}.get(name, 0)
        if precision > best[1]:
            best = (_weight(parameters), precision)
    return best if best[0] > 0 else (0.0, 0)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
