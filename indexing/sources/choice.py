"""Which source a person means by what they typed. A folder needs nothing of the others, which take time to import."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from engine.settings import Settings
from indexing.sources import addresses
from indexing.sources.folder import FolderSource
from indexing.sources.items import Source

_TAR: Final = ".tar"
_LISTS: Final = (".csv", ".parquet")
_BESIDE_SHARDS: Final = (".json", ".jsonl", ".txt", ".parquet", ".csv", ".idx")
_ENOUGH: Final = 1000


def open_source(text: str, settings: Settings) -> Source:
    """The source that a path, an address or a pattern means. Raises `SourceError` if nothing reads such addresses.

    A name that ends in `.tar`, with braces or wildcards if there are more, means shards; one that ends in `.csv` or
    `.parquet` a list; an address anything below it. A folder, here or in a store, that holds shards and no pictures
    beside them means all of those.
    """
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if not addresses.is_address(text):
        text = os.path.abspath(Path(text).expanduser())  # noqa: PTH100 - a pattern is no path to look up
    name = addresses.file_name(text).lower()
    if name.endswith(_LISTS):
        from indexing.sources.lists import ListSource  # noqa: PLC0415 - see the module

        return ListSource(text, settings)
    if name.endswith(_TAR):
        from indexing.sources.tars import TarSource  # noqa: PLC0415 - see the module

        return TarSource(text, settings)
    if addresses.is_address(text):
        from indexing.sources.objects import ObjectSource  # noqa: PLC0415 - see the module

        source = ObjectSource(text, settings)
        if not only_shards(source.first_names()):
            return source
        source.close()
        from indexing.sources.tars import TarSource  # noqa: PLC0415 - see the module

        return TarSource(f"{text.rstrip('/')}/*{_TAR}", settings)
    if _holds_shards(text):
        from indexing.sources.tars import TarSource  # noqa: PLC0415 - see the module

        return TarSource(f"{text}/*{_TAR}", settings)
    return FolderSource(text)


def _holds_shards(folder: str) -> bool:
    """Whether a folder has shards and nothing beside them but what describes them: the first other file decides."""
    try:
        with os.scandir(folder) as found:
            return only_shards(entry.name for entry in itertools.islice(found, _ENOUGH))
    except OSError:
        return False


def only_shards(names: Iterable[str]) -> bool:
    """Whether there are tar shards among these, and nothing that could be a picture."""
    shards = False
    for name in names:
        shards |= name.lower().endswith(_TAR)
        if not name.startswith(".") and not name.lower().endswith((_TAR, *_BESIDE_SHARDS)):
            return False
    return shards
