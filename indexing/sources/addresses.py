"""Addresses: what of them may be kept or shown, what a list may name, and which ones a pattern means.

Credentials come in addresses as `user:password@`, and as parameters of signed ones. Nothing may write an address, or a
text that could hold one, without `redact`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

WEB: Final = frozenset(("http", "https"))
STORES: Final = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"))
"""The schemes that a list may name beside the web's: stores, but nothing that reaches this machine's files."""

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
_USER: Final = re.compile(r"(?<=://)[^/?#]*@")
_SECRET: Final = re.compile(
    r"(?i)x-(amz|goog|oss|ms)-.*|awsaccesskeyid|googleaccessid|ossaccesskeyid|sig|hmac|key|pwd|auth|authorization"
    r"|.*(token|secret|passw|signature|credential|session|api[_-]?key|access[_-]?key|jwt).*"
)
_OF_SIGNATURE: Final = re.compile(
    r"(?i)expires|policy|key-pair-id|s[eiprstv]|sdd|spr|srt|sks|skt|skv|ske|skoid|sktid|saoid|suoid|scid"
)
"""Parameters that change with each signature, and mean nothing in an address without one."""
_SIGNATURES: Final = frozenset(("sig", "signature", "x-amz-signature", "x-goog-signature"))
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")
_MAGIC: Final = re.compile(r"[{*?\[]")
_MOST: Final = 1_000_000


def is_address(text: str) -> bool:
    """Whether a text is an address, and not a path of this machine."""
    return "://" in text


def scheme(address: str) -> str:
    """An address's scheme; empty for a path."""
    return address.partition("://")[0].lower() if is_address(address) else ""


def redact(text: str) -> str:
    """A text without the secrets of the addresses in it: users and passwords, signatures, tokens, keys.

    What else an address says stays, so that two pictures keep two addresses.
    """
    return _ADDRESS.sub(lambda found: _redact_one(found[0]), text) if "://" in text else text


def file_name(path: str) -> str:
    """The name of the file at a path or an address."""
    if scheme(path) in WEB:
        path = unquote(urlsplit(path).path)
    return posixpath.basename(path.rstrip("/"))


def permitted(named: str, home: str) -> str:
    """The address or absolute path that a list in the folder `home` means by what it names.

    A list on this machine may name any of its files, one from elsewhere none: only what lies below its own folder, on
    the web, or in a store. Raises `ValueError` with a sentence for anything else.
    """
    local = not is_address(home)
    kind = scheme(named)
    if kind in WEB | STORES:
        return named
    if kind == "file":
        kind, named = "", unquote(urlsplit(named).path)
        if not local:
            raise ValueError("A list from elsewhere may not name files of this machine.")
    if kind:
        raise ValueError(f"Addresses with {kind}: are not fetched; use http, https, s3, gs or az.")
    if local:
        return os.path.normpath(posixpath.join(home, named))
    whole = urljoin(home, named) if scheme(home) in WEB else home + posixpath.normpath(named)
    inside = not named.startswith("/") and ".." not in unquote(named).replace("\\", "/").split("/")
    if not inside or not whole.startswith(home):
        raise ValueError("A list from elsewhere may only name files in its own folder.")
    return whole


def home_of(address: str) -> str:
    """The folder, ending in "/", in which the file at a path or an address lies."""
    path = address.partition("?")[0] if scheme(address) in WEB else address
    return path[: path.rfind("/") + 1]


def folder_of(pattern: str) -> str:
    """The folder, ending in "/", in which everything lies that a pattern can mean; empty for a name alone."""
    found = _MAGIC.search(pattern)
    return home_of(pattern[: found.start()] if found else pattern)


def has_wildcards(pattern: str) -> bool:
    """Whether a store must be asked what a pattern without braces means."""
    return scheme(pattern) not in WEB and bool(_MAGIC.search(pattern))


def expand_braces(pattern: str) -> Iterator[str]:
    """What the braces of a pattern stand for, as a shell's do: `{000..099}` counts, `{a,b}` enumerates.

    Raises `ValueError` for a range of more than a million.
    """
    found = next((each for each in _BRACES.finditer(pattern) if ".." in each[1] or "," in each[1]), None)
    if found is None:
        yield pattern
        return
    counted = _RANGE.fullmatch(found[1])
    if counted:
        first, last = int(counted[1]), int(counted[2])
        width = len(counted[1]) if counted[1].startswith("0") or counted[2].startswith("0") else 0
        if abs(last - first) >= _MOST:
            raise ValueError(f"{found[0]} stands for more than {_MOST} names.")
        step = 1 if last >= first else -1
        choices = [f"{number:0{width}}" for number in range(first, last + step, step)]
    else:
        choices = found[1].split(",")
    for choice in choices:
        yield from expand_braces(pattern[: found.start()] + choice + pattern[found.end() :])


def _redact_one(address: str) -> str:
    address = _USER.sub("", address, count=1)
    if scheme(address) in WEB:
        address = address.partition("#")[0]
    head, mark, query = address.partition("?")
    if not mark:
        return address
    parts = {part: unquote(part.partition("=")[0]) for part in query.split("&")}
    kept = [part for part, name in parts.items() if not _SECRET.fullmatch(name)]
    if any(name.lower() in _SIGNATURES for name in parts.values()):
        kept = [part for part in kept if not _OF_SIGNATURE.fullmatch(parts[part])]
    return f"{head}?{'&'.join(kept)}" if kept else head
