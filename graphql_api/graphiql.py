"""GraphiQL, the editor for queries that a browser gets at `/graphql`, with examples of what can be asked.

Its assets are bundled at set-up from the npm package by `make graphiql` and then come from this server, so that the
page works without a network. Where that was not done, the page that Strawberry carries loads them from a public
address, and a line on it says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from strawberry.http.ides import get_graphql_ide_html

ASSETS: Final = Path(__file__).parent / "graphiql_assets"

EXAMPLES: Final = {
    "Search": """\
# The pictures that fit some words best.
query Search {
  search(query: "a red boat at night", first: 5) {
    totalCount { value relation }
    latencyMs
    cached
    edges { rank score node { fileName category thumbnailUrl metadata } }
    execution { generation model strategy stages { name ms } }
  }
}
""",
    "Filter": """\
# Only pictures of two categories, and how many pictures each category has.
query Filter {
  facets(fields: [{ path: "category" }]) { path values { value count } }
  search(query: "something white in the snow", filter: { category: ["animals", "vehicles"] }, first: 5) {
    totalCount { value relation }
    edges { rank score node { fileName category metadata } }
  }
}
""",
    "Batch": """\
# Several searches in one request are encoded as one batch.
query Batch {
  boats: search(query: "a red boat at night", first: 3) { latencyMs edges { score node { fileName } } }
  dogs: search(query: "two dogs in the snow", first: 3) { latencyMs edges { score node { fileName } } }
  flowers: search(query: "a yellow flower", first: 3) { latencyMs edges { score node { fileName } } }
}
""",
    "MoreLikeThis": """\
# Pictures that look like the best answer. A negative weight moves away from a term.
query MoreLikeThis {
  search(
    terms: [{ source: { text: "a house" } }, { source: { text: "night" }, weight: -0.5 }]
    first: 1
  ) {
    edges { node { fileName similar(first: 5) { edges { score node { fileName metadata } } } } }
  }
}
""",
    "Server": """\
# How the server is, what it holds, and how fast it has been.
query Server {
  health { status encoderLoaded indexReachable cacheReachable device model runtime }
  indexes { name ready generation points dimension model }
  stats { uptimeSeconds window { total { count p50 p95 p99 } } }
}
""",
}
"""Queries to begin with, by the name of their operation."""

_OFFLINE: Final = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta http-equiv="Content-Security-Policy" content="default-src 'self'; style-src 'self' 'unsafe-inline';
        font-src 'self' data:; img-src 'self' data:; object-src 'none'; base-uri 'none'">
  <title>Sightline · GraphiQL</title>
  <link rel="icon" href="/static/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/graphiql_assets/graphiql.css">
  <style>html, body, #graphiql { height: 100%; margin: 0 }</style>
</head>
<body>
  <div id="graphiql"></div>
  <script id="examples" type="application/json">EXAMPLES</script>
  <script src="/graphiql_assets/graphiql.js"></script>
</body>
</html>
"""

_NOTICE: Final = """\
<p style="position: fixed; z-index: 9; right: 16px; bottom: 16px; margin: 0; padding: 10px 16px; max-width: 420px;
   border-radius: 10px; background: #fff3d6; color: #4a3600; font: 14px/1.5 system-ui, sans-serif">
This editor is loaded from the internet. <code>make graphiql</code> puts it on this machine. Examples: LINKS.</p>
"""


def page() -> str:
    """The page as HTML: on this server's own assets where they are, else Strawberry's page with a line about it."""
    if (ASSETS / "graphiql.js").is_file():
        tabs = json.dumps([{"query": query} for query in EXAMPLES.values()])
        return _OFFLINE.replace("EXAMPLES", tabs.replace("<", "\\u003c"))
    links = ", ".join(f'<a href="?{urlencode({"query": query})}">{name}</a>' for name, query in EXAMPLES.items())
    return get_graphql_ide_html(graphql_ide="graphiql").replace("</body>", _NOTICE.replace("LINKS", links) + "</body>")
