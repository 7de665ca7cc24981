"""What belongs to no generation is put away, and nothing else."""

from __future__ import annotations

from pathlib import Path

from engine.generations.record import new_id
from indexing.ledger import FILE
from indexing.pruning import prune
from indexing.sharding import WHOLE
from tests.indexing.conftest import NAME, Place, Steps
from tests.support.pictures import contents, paint


class Stopped(Exception):
    """Ends a worker on its way."""


def stop() -> None:
    """Ends it."""
    raise Stopped


def thumbnails(place: Place) -> set[str]:
    """All that lie there."""
    folder = place.settings.index_path / NAME
    return {str(path.relative_to(folder)) for path in folder.glob("thumbnails/*/*")}


async def with_orphan(place: Place) -> set[str]:
    """Files that changed between a worker that was stopped and the next: their first thumbnails belong to no row."""
    generation = new_id()
    for color in ("pink", "orange"):
        try:
            await place.work(WHOLE, generation, Steps("recording", stop))
        except Stopped:
            for path in place.source.rglob("*.png"):
                paint(path, color, (50, 20))
    await place.work(WHOLE, generation)
    await place.finish(generation)
    found = await contents(place.settings, NAME)
    return {point.payload["thumbnail"] for point in found.points.values()}


async def test_a_thumbnail_whose_file_changed_before_its_row_was_written_goes(place: Place):
    """Those that serve stay, whatever else is deleted."""
    wanted = await with_orphan(place)
    orphans = thumbnails(place) - wanted
    assert orphans
    pruned = await prune(place.settings, NAME, 2)
    assert (pruned.generations, pruned.thumbnails) == ([], len(orphans))
    assert thumbnails(place) == wanted
    assert (await prune(place.settings, NAME, 2)).thumbnails == 0


async def test_thumbnails_of_a_generation_that_may_serve_again_stay(place: Place):
    """Until it is deleted, and with it what only it had."""
    await place.run()
    first = thumbnails(place)
    for path in place.source.rglob("*.png"):
        paint(path, "pink", (50, 20))
    await place.run()
    assert (await prune(place.settings, NAME, 2)).thumbnails == 0
    assert first < thumbnails(place)


async def test_thumbnails_stay_where_the_ledger_knows_nothing(place: Place, tmp_path: Path):
    """With another database, or none, nobody can say whose they are."""
    wanted = await with_orphan(place)
    folder = place.settings.index_path / NAME
    for file in folder.glob(f"{FILE}*"):
        file.rename(tmp_path / file.name)
    before = thumbnails(place)
    assert (await prune(place.settings, NAME, 1)).thumbnails == 0
    assert not (folder / FILE).exists()
    (folder / FILE).touch()
    assert (await prune(place.settings, NAME, 1)).thumbnails == 0
    assert thumbnails(place) == before > wanted
