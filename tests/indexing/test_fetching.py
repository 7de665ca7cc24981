from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from engine.errors import SourceError
from engine.settings import Settings
from indexing import fetching
from indexing.decode import Failure, Reason
from indexing.fetching import Fetcher, MemoryFile, Room
from indexing.plan import Work
from indexing.sources import retry
from indexing.sources.items import UNKNOWN_SIZE
from indexing.sources.lists import ListSource
from indexing.sources.retry import FetchError, persevere
from indexing.sources.tars import TarSource
from indexing.workers import Arrived
from tests.support.sources import PICTURE, items, tar_of
from tests.support.web import Web, web_server

SETTINGS = Settings(index_fetches=4, index_fetch_attempts=2, index_max_bytes=2**20)


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server that goes wrong on purpose."""
    with web_server() as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)


def listed(folder: Path, addresses: Sequence[str]) -> ListSource:
    """A source of these addresses, checked."""
    (folder / "list.csv").write_text("\n".join(("id,url", *(f"{n:04},{each}" for n, each in enumerate(addresses)))))
    source = ListSource(f"{folder}/list.csv", SETTINGS)
    source.check()
    return source


def works(source: ListSource | TarSource) -> list[Work]:
    """Everything in it is to be done."""
    return [Work(item, None) for item in items(source)]


async def take(arriving: AsyncIterator[Arrived[Work]], count: int) -> list[Arrived[Work]]:
    """The next ones, not yet done."""
    return [await anext(arriving) for _ in range(count)]


def size(each: Arrived[Work]) -> int:
    """The bytes that one holds."""
    return Path(each.file).stat().st_size if isinstance(each.file, str) else 0


def contents(folder: Path) -> list[bytes]:
    """What the files of a folder hold."""
    return [each.read_bytes() for each in folder.iterdir()]


async def fail_all(fetcher: Fetcher, todo: Sequence[Work]) -> None:
    """Takes everything, of which nothing comes."""
    async with aclosing(fetcher.fetch(todo)) as arriving:
        async for each in arriving:
            assert isinstance(each.file, Failure)
            each.done()


def open_files() -> int:
    """How many pictures this process holds."""
    found = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sum("sightline-picture" in str(each.readlink()) for each in found)


async def test_room_is_given_in_order():
    """A large demand is not overtaken for ever by small ones, and who gives up leaves nothing taken."""
    room = Room(10)
    await room.take(8)
    order: list[str] = []

    async def ask(name: str, size: int) -> None:
        await room.take(size)
        order.append(name)

    large, small, gone = (asyncio.create_task(ask(name, size)) for name, size in (("l", 9), ("s", 1), ("g", 1)))
    await asyncio.sleep(0)
    assert order == []
    gone.cancel()
    room.give(8)
    await asyncio.gather(large, small, gone, return_exceptions=True)
    assert (order, room.used) == (["l", "s"], 10)


async def test_a_granted_demand_that_is_cancelled_is_given_back():
    """Otherwise room would shrink with every interrupted run."""
    room = Room(10)
    await room.take(10)
    asking = asyncio.create_task(room.take(4))
    await asyncio.sleep(0)
    room.give(10)
    asking.cancel()
    await asyncio.wait([asking])
    assert room.used == 0


async def test_a_file_holds_no_more_than_it_may():
    """By what is announced, and by what comes."""
    room = Room(100)
    file = MemoryFile(50, room)
    with pytest.raises(FetchError) as refused:
        await file.begin(51)
    assert (refused.value.reason, refused.value.again) == (Reason.TOO_LARGE, False)
    await file.begin(40)
    file.write(PICTURE[:40])
    with pytest.raises(FetchError, match="told, or wrong"):
        file.write(b"x")
    await file.begin(UNKNOWN_SIZE)
    assert room.used == 50
    file.write(PICTURE[:50])
    with pytest.raises(FetchError) as refused:
        file.write(b"x")
    assert refused.value.reason == Reason.TOO_LARGE
    file.close()
    assert room.used == 0


async def test_without_memory_files_there_are_temporary_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On other systems than Linux; they are removed when they are done."""
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = MemoryFile(1000, Room(1000))
    await file.begin(UNKNOWN_SIZE)
    file.write(PICTURE)
    assert contents(tmp_path) == [PICTURE]
    file.close()
    assert contents(tmp_path) == []


async def test_attempts_end(monkeypatch: pytest.MonkeyPatch):
    """After so many, with pauses that grow and are never longer than the other side may ask for."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.5)

    async def fail() -> None:
        raise FetchError(Reason.UNREACHABLE, "busy", again=True, after_s=1000 if len(pauses) == 4 else 0)

    with pytest.raises(FetchError, match=r"busy \(6 attempts\)"):
        await persevere(fail, 6)
    assert all(pause <= 0.5 * 2**number for number, pause in enumerate(pauses[:4]))
    assert pauses[4:] == [20.0]


async def test_many_are_fetched_at_once_and_no_more(tmp_path: Path, web: Web):
    """As many requests as are allowed wait for the server together."""
    web.files["a.jpg"] = PICTURE
    web.gate = threading.Event()
    with closing(listed(tmp_path, [f"{web.address}/{number}/a.jpg" for number in range(20)])) as source:
        fetcher = Fetcher(source, SETTINGS)
        async with aclosing(fetcher.fetch(works(source))) as arriving:
            first = asyncio.create_task(anext(arriving))
            async with asyncio.timeout(30):
                while web.busy < SETTINGS.index_fetches:  # noqa: ASYNC110 - the server is no part of this loop
                    await asyncio.sleep(0.005)
            web.gate.set()
            (await first).done()
            async for each in arriving:
                each.done()
    assert web.most_busy == SETTINGS.index_fetches


async def test_bytes_on_their_way_are_bounded(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch):
    """While nobody takes them, as many are fetched as there is room for, and each that is done makes room."""
    monkeypatch.setattr(fetching, "BYTES", 2**20)
    web.files["a.jpg"] = PICTURE + bytes(300_000)
    with closing(listed(tmp_path, [f"{web.address}/{number}/a.jpg" for number in range(12)])) as source:
        fetcher = Fetcher(source, SETTINGS)
        async with aclosing(fetcher.fetch(works(source))) as arriving:
            held = await take(arriving, 3)
            following = asyncio.create_task(anext(arriving))
            done, _ = await asyncio.wait([following], timeout=0.2)
            assert not done
            assert sum(map(size, held)) <= fetcher.room.used <= 2**20
            held[0].done()
            held[1:] = [*held[1:], await following]
            for each in held[1:]:
                each.done()
            rest = 0
            async for each in arriving:
                assert fetcher.room.used <= 2**20
                each.done()
                rest += 1
    assert rest == 12 - 4
    assert fetcher.room.used == 0
    assert open_files() == 0


async def test_few_wait_to_be_taken(tmp_path: Path, web: Web):
    """However small they are: each is an open file."""
    web.files["a.jpg"] = PICTURE
    with closing(listed(tmp_path, [f"{web.address}/{number}/a.jpg" for number in range(40)])) as source:
        fetcher = Fetcher(source, SETTINGS)
        async with aclosing(fetcher.fetch(works(source))) as arriving:
            held = await take(arriving, 2 * SETTINGS.index_fetches)
            assert sum(web.asked.values()) == open_files() == 2 * SETTINGS.index_fetches
            held[0].done()
            await anext(arriving)
            assert sum(web.asked.values()) == 2 * SETTINGS.index_fetches + 1


async def test_the_last_files_stay_until_they_are_read(tmp_path: Path, web: Web):
    """A busy worker may open its file when nothing else is left to fetch; the end waits for it."""
    web.files["a.jpg"] = PICTURE
    with closing(listed(tmp_path, [f"{web.address}/{number}/a.jpg" for number in range(3)])) as source:
        fetcher = Fetcher(source, SETTINGS)
        async with aclosing(fetcher.fetch(works(source))) as arriving:
            held = await take(arriving, 3)
            end = asyncio.ensure_future(anext(arriving, None))
            done, _ = await asyncio.wait([end], timeout=0.5)
            assert not done
            assert list(map(size, held)) == [len(PICTURE)] * 3
            for each in held:
                each.done()
            assert await end is None
    assert (fetcher.room.used, open_files()) == (0, 0)


async def test_who_stops_early_leaves_nothing(tmp_path: Path, web: Web):
    """No request, no file, no room taken."""
    web.files["a.jpg"] = PICTURE
    addresses = [f"{web.address}/a.jpg", *[f"{web.address}/stuck/{number}.jpg" for number in range(10)]]
    with closing(listed(tmp_path, addresses)) as source:
        fetcher = Fetcher(source, SETTINGS)
        async with aclosing(fetcher.fetch(works(source))) as arriving:
            await anext(arriving)
    assert (fetcher.room.used, open_files()) == (0, 0)


async def test_a_place_that_answers_no_more_is_given_up(tmp_path: Path, web: Web):
    """A million pictures are not tried one after the other while the network is down."""
    names = [f"{number:03}.jpg" for number in range(200)]
    web.files["x.tar"] = tar_of(dict.fromkeys(names, PICTURE))
    settings = SETTINGS.model_copy(update={"index_path": tmp_path})
    with closing(TarSource(f"{web.address}/x.tar", settings)) as source:
        source.check()
        todo = works(source)
        web.down = True
        fetcher = Fetcher(source, settings)
        with pytest.raises(SourceError, match=r"answers no more: .* goes on from here"):
            await fail_all(fetcher, todo)
    assert web.asked["/x.tar"] < 100
