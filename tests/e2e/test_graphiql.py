from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from graphql_api import graphiql
from tests.e2e.site import Site


@pytest.mark.programs
def test_the_editor_works_without_a_network(page: Page, site: Site):
    """The bundled editor opens with the examples as tabs and runs the first; nothing leaves this machine."""
    assert (graphiql.ASSETS / "graphiql.js").is_file(), "GraphiQL is not bundled: run `make graphiql`."
    page.goto(f"{site.url}/graphql")
    expect(page.get_by_role("tab")).to_contain_text([*graphiql.EXAMPLES])
    page.get_by_role("button", name="Execute query").click()
    expect(page.locator(".graphiql-response")).to_contain_text("totalCount")


@pytest.mark.programs
def test_a_link_to_a_query_opens_it(page: Page, site: Site):
    """A query in the address has a tab of its own."""
    page.goto(f"{site.url}/graphql?query=query%20Mine%20%7Bhealth%7Bstatus%7D%7D")
    expect(page.get_by_role("tab", name="Mine")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("name", graphiql.EXAMPLES)
def test_every_example_is_answered(site: Site, name: str):
    """What the editor offers works as it stands."""
    answer = httpx.post(f"{site.url}/graphql", json={"query": graphiql.EXAMPLES[name]}).json()
    assert "errors" not in answer
    assert answer["data"]


def test_without_its_assets_the_page_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The usual page comes, with a line on how to have the editor offline, and links to the examples."""
    monkeypatch.setattr(graphiql, "ASSETS", tmp_path)
    html = graphiql.page()
    assert "make graphiql" in html
    assert html.count("?query=") == len(graphiql.EXAMPLES)
    assert 'id="graphiql"' in html
