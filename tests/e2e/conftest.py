"""A real server on drawn pictures, a real browser that may talk to nothing else, and the product's container images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from engine.settings import Settings
from tests.e2e.cluster.machine import reason_against_containers
from tests.e2e.site import Site, publish

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 20_000
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server, which all tests share."""
    settings = Settings(_env_file=None, index_path=tmp_path_factory.mktemp("data"))
    publish(settings)
    site = Site(settings)
    site.start()
    yield site
    site.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Closed with each module: Playwright keeps a loop running, which async tests can't share."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("Chromium is missing: `apt-get install chromium`, or run the tests with `make test`.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        expect.set_options(timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """What the pages of this test complained about."""
    return []


@pytest.fixture
def forgive(problems: list[str]) -> Callable[[], None]:
    """Forgets the complaints so far: a test that stops the server expects some."""
    return problems.clear


@pytest.fixture
def visit(browser: Browser, site: Site, problems: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens a page in a profile of its own. At the end, no page may have complained or asked another machine."""
    strangers: list[str] = []
    contexts: list[BrowserContext] = []

    def note(url: str) -> None:
        if urlsplit(url).scheme not in {"data", "blob"} and not url.startswith(site.url):
            strangers.append(url)

    def listen(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            problems.append(message.text)

    def open_page(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("request", lambda request: note(request.url))
        page.on("console", listen)
        page.on("pageerror", lambda error: problems.append(str(error)))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert strangers == []
    assert problems == []


@pytest.fixture
def page(visit: Callable[..., Page]) -> Page:
    """A page as on a laptop."""
    return visit(viewport={"width": 1200, "height": 800})


@pytest.fixture(scope="session")
def image_archives() -> Path:
    """The folder of the product's images. With all in the cache that takes seconds, with nothing some minutes."""
    if (reason := reason_against_containers()) is not None:
        if os.environ.get("CI"):
            pytest.fail(f"Continuous integration runs the images, and here {reason}.")
        pytest.skip(reason)
    done = subprocess.run(
        [ROOT / "tools/images/build"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    return ROOT / "build" / "images"
