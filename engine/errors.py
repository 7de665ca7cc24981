"""Every error that Sightline raises on purpose, as one tree.

    SightlineError
     ├─ BadUserInput            the caller's request can't be answered as it stands
     │   └─ CursorStale         a page cursor of another query or generation
     ├─ IndexNotFound           no index of that name
     ├─ IndexNotReady           the index exists but has no serving generation yet
     ├─ NotPromoted             a new generation is complete, but failed its verification
     ├─ ImageNotFound           no image of that id in the index
     ├─ Overloaded              too much work at once; carries `retry_after_ms`
     ├─ EncoderUnavailable      the encoder died or does not answer
     ├─ IndexUnavailable        the vector index does not answer
     │   └─ IndexBusy           another process builds it
     ├─ ClusterUnavailable      the Kubernetes API does not answer
     ├─ ClusterRefused          the Kubernetes API refused a request; carries its `status`
     ├─ LedgerUnavailable       the database of the catalogue and ledger can't be used
     ├─ ModelUnavailable        a model's weights are not here and can't be fetched
     ├─ IndexCorrupt            what lies on disk is not what the manifest says
     └─ SourceError             a source of images can't be read, or holds none
         └─ SourceUnavailable   it does not answer

Adapters raise these `from` the library's own error. `code` is what a GraphQL client sees in
`extensions.code`; the message always says what to do next.
"""

from __future__ import annotations

from typing import ClassVar, Final

TRY_AGAIN: Final = 75
"""EX_TEMPFAIL of sysexits.h: something is away or busy, and the same command may work later."""

AT_FAULT: Final = 65
"""EX_DATAERR of sysexits.h: the data or the request is at fault, and the same command fails for ever."""


class SightlineError(Exception):
    """Base of all expected errors; `code` is stable, the message is for people.

    `exit_code` is a command's: `TRY_AGAIN`, `AT_FAULT`, or 1 where neither can be said.
    """

    code: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 1


class BadUserInput(SightlineError):
    """The request itself is wrong: the message names the argument and what it may be."""

    code = "BAD_USER_INPUT"
    exit_code = AT_FAULT


class CursorStale(BadUserInput):
    """The cursor belongs to another query, filter or generation: start again from the first page."""

    code = "CURSOR_STALE"


class IndexNotFound(SightlineError):
    """No index of that name exists."""

    code = "INDEX_NOT_FOUND"
    exit_code = AT_FAULT


class IndexNotReady(SightlineError):
    """The index exists, but no generation of it serves yet."""

    code = "INDEX_NOT_READY"
    exit_code = TRY_AGAIN


class NotPromoted(SightlineError):
    """A new generation is complete, but failed its verification; what served before goes on."""

    code = "NOT_PROMOTED"
    exit_code = AT_FAULT


class ImageNotFound(SightlineError):
    """No image of that id is in the index."""

    code = "IMAGE_NOT_FOUND"


class Overloaded(SightlineError):
    """More work arrived than can be done in time."""

    code = "OVERLOADED"
    exit_code = TRY_AGAIN

    def __init__(self, retry_after_ms: int) -> None:
        """`retry_after_ms`: how long the caller should wait before it tries again."""
        super().__init__(f"Too many requests at once. Try again in {retry_after_ms} ms.")
        self.retry_after_ms = retry_after_ms


class EncoderUnavailable(SightlineError):
    """The encoder died or does not answer."""

    code = "ENCODER_UNAVAILABLE"
    exit_code = TRY_AGAIN


class IndexUnavailable(SightlineError):
    """The vector index does not answer."""

    code = "INDEX_UNAVAILABLE"
    exit_code = TRY_AGAIN


class IndexBusy(IndexUnavailable):
    """Another process builds the index, and only one may."""


class ClusterUnavailable(SightlineError):
    """The Kubernetes API does not answer, or is too busy."""

    code = "CLUSTER_UNAVAILABLE"
    exit_code = TRY_AGAIN


class ClusterRefused(SightlineError):
    """The Kubernetes API refused a request: not allowed, not valid, in conflict, or of a kind that it doesn't know."""

    code = "CLUSTER_REFUSED"

    def __init__(self, message: str, status: int) -> None:
        """`status` is the HTTP status: 403, 404, 409, 422."""
        super().__init__(message)
        self.status = status


class LedgerUnavailable(SightlineError):
    """The database of the catalogue and ledger does not answer, refuses, or is of another version."""

    code = "LEDGER_UNAVAILABLE"
    exit_code = TRY_AGAIN


class ModelUnavailable(SightlineError):
    """A model's weights are not on this machine and could not be fetched."""

    code = "MODEL_UNAVAILABLE"


class IndexCorrupt(SightlineError):
    """What lies on disk is not what its manifest says."""

    code = "INDEX_CORRUPT"


class SourceError(SightlineError):
    """A source of images is missing, unreadable or empty."""

    code = "SOURCE_ERROR"
    exit_code = AT_FAULT


class SourceUnavailable(SourceError):
    """A source of images does not answer."""

    exit_code = TRY_AGAIN
