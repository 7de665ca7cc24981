"""A decoding worker: the child process, and the frames it exchanges with its parent.

    python -m indexing.worker '{"decoder": "indexing.decode:decode", "memory_mb": 2048, "timeout_s": 20, …}'

It reads one request a line on standard input and answers with one frame on standard output; the pixels, most of what it
has to say, it leaves in memory that it shares with its parent. Answers are JSON and raw bytes, not pickles: the worker
has touched hostile files, and its parent must not run what it sends.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final

from engine.ports import Pixels
from engine.preprocess import Preprocessing
from indexing.decode import Decoded, Failure, Outcome, Reason, Rules

Decoder = Callable[[str, Rules], Outcome]

HEADER: Final = struct.Struct("<II")
"""A frame begins with two lengths in bytes: of the JSON and of the thumbnail."""
_GRACE: Final = 2.0
_NICENESS: Final = 10
"""Workers give way to the encoder, whose threads wait for each other: they decode while it would have to wait."""


def rules_from(data: dict[str, Any]) -> Rules:
    """The rules that `dataclasses.asdict` took apart and JSON carried."""
    return Rules(**{**data, "preprocessing": Preprocessing(**data["preprocessing"])})


def pack(outcome: Outcome | None) -> bytes:
    """One frame, which has everything but the pixels; None says that the worker is ready."""
    thumbnail = b""
    facts: dict[str, Any] = {}
    if isinstance(outcome, Decoded):
        facts = {name: getattr(outcome, name) for name in ("content_hash", "width", "height", "taken_at")}
        thumbnail = outcome.thumbnail
    elif outcome is not None:
        facts = asdict(outcome)
    text = json.dumps({"kind": type(outcome).__name__, "facts": facts}).encode()
    return b"".join((HEADER.pack(len(text), len(thumbnail)), text, thumbnail))


def unpack(text: bytes, thumbnail: bytes, pixels: Pixels) -> Outcome | None:
    """What a frame's parts say, with a copy of the pixels.

    Raises `ValueError`, `TypeError` or `KeyError` if they are no frame of ours.
    """
    frame = json.loads(text)
    facts = frame["facts"]
    if frame["kind"] == "Decoded":
        return Decoded(**facts, pixels=pixels.copy(), thumbnail=thumbnail)
    return Failure(Reason(facts["reason"]), facts["detail"]) if frame["kind"] == "Failure" else None


def limit_memory(megabytes: int) -> None:
    """Lets this process add that much address space and no more, and leave no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if not statm.exists():  # elsewhere than on Linux the size in use is not told, and the limit is not kept
        return
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)


def serve(
    requests: BinaryIO, answers: BinaryIO, shared: mmap.mmap, decoder: Decoder, rules: Rules, timeout_s: float
) -> None:
    """Answers requests until there are no more; a picture's pixels lie in `shared` before its frame is sent.

    The parent kills a worker that takes too long. Should the parent itself be gone, the alarm does.
    """
    answers.write(pack(None))
    answers.flush()
    for line in requests:
        signal.setitimer(signal.ITIMER_REAL, timeout_s * _GRACE)
        outcome = decoder(json.loads(line), rules)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if isinstance(outcome, Decoded):
            shared[:] = outcome.pixels.tobytes()
        answers.write(pack(outcome))
        answers.flush()


def main(order: str) -> None:
    """Runs a worker on this process's standard input and output."""
    told = json.loads(order)
    module, _, name = told["decoder"].partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), name)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb", buffering=2**20)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # what a library prints must not get between the frames
    os.nice(_NICENESS)
    limit_memory(told["memory_mb"])
    with answers, sys.stdin.buffer as requests, mmap.mmap(told["pixels"], 0) as shared:
        serve(requests, answers, shared, decoder, rules_from(told["rules"]), told["timeout_s"])


if __name__ == "__main__":
    main(sys.argv[1])
