"""Where pictures come from: a folder, a store of objects, tar shards, a list of addresses.

`open_source` makes a `Source` of what a person typed. A source lists everything that could be a picture, sorted by key
by code points, and tells by what its next version would differ; `indexing.plan` compares that with the ledger. Nothing
here opens a picture: `indexing.decode` judges it by content, in a process of its own.

    SOURCE                                      source          a picture's key        unchanged while
    /a/folder                                   FolderSource    path in the folder     size, time, words are
    s3://bucket/prefix, any fsspec address      ObjectSource    path in the prefix     ETag or size and time; words' too
    x.tar, x-{000..099}.tar, *.tar              TarSource       shard.tar/member       the shard's ETag or size and time
    list.csv, list.parquet                      ListSource      id, else the address   its row is (signatures aside)

**A folder** is read as it is compared, and its files are decoded where they lie.

**The others are listed first, completely** (`remote`, `listing`), into a SQLite file without a name that is gone with
the process. So memory is bounded by nothing that lies in the source; keys are sorted however a store or a list sorts
them; and a listing that breaks off ends the run before anything is compared, so that it never looks like deletions. A
part of a source that can't be read (a folder without permission, a damaged shard) is a `Problem` whose key ends in "/":
what is known below it stays.

**Bytes come through `indexing.fetching`**: many pictures at once, in the loop of a thread of its own, each repeated
after a while if that may help (`retry`), bounded in number and bytes, into memory that decoding workers open like a
file. Waiting for a network never holds a worker. `stores` knows how: fsspec for stores, httpx for the web.

**Words** (`sidecars`) lie beside the pictures in all of them: `X.jpg.json`, `X.json`, lines of `metadata.jsonl`, a tar
sample's `.json`, `.txt` and `.cls`, a list's other columns. Those in a store are fetched with their picture, and only
when either is new.

**Addresses may hold secrets** and come from strangers: `addresses.redact` is what every text passes that is kept or
shown, and `addresses.permitted` says what a list may name.
"""

from __future__ import annotations

from indexing.sources.choice import open_source
from indexing.sources.folder import FolderSource
from indexing.sources.items import BAD_SIDECAR, Item, Listed, Problem, Source
from indexing.sources.sidecars import Sidecar, Words, read_metadata

__all__ = [
    "BAD_SIDECAR",
    "FolderSource",
    "Item",
    "Listed",
    "Problem",
    "Sidecar",
    "Source",
    "Words",
    "open_source",
    "read_metadata",
]
