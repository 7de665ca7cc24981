"""`sightline index` and `generations finish` in a terminal, with signals, messages and exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from types import FrameType
from typing import Any, Final, NoReturn

from rich.console import Console

from engine.errors import SightlineError
from engine.ports import Encoder
from engine.settings import Settings
from engine.settings import settings as read_settings
from indexing.pipeline import index
from indexing.progress import TerminalProgress, print_summary
from indexing.report import Report
from indexing.sharding import Shard
from indexing.sources import open_source
from indexing.together import finish, index_shard
from indexing.workers import DECODER

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_index(
    source: str,
    index_name: str | None = None,
    *,
    settings: Settings | None = None,
    encoder_factory: Callable[[], Encoder] | None = None,
    progress: type[TerminalProgress] = TerminalProgress,
    decoder: str = DECODER,
    promote: bool = True,
) -> int:
    """Indexes a source (see `indexing.sources.open_source`) and prints what came of it.

    Returns the exit code: 0, the error's for one that was explained, 130 after Ctrl-C, 143 after SIGTERM. The index is
    the one named, else `settings.index_name`; the model the one that the settings name, unless a factory is given.
    Without `promote` a new generation is left for a person to promote.
    """
    chosen = settings or read_settings()

    async def run(shown: TerminalProgress) -> Report:
        with closing(await asyncio.to_thread(open_source, source, chosen)) as opened:
            return await index(
                opened,
                settings=chosen,
                encoder_factory=encoder_factory or partial(_load_encoder, chosen),
                index_name=index_name or chosen.index_name,
                progress=shown,
                decoder=decoder,
                promote=promote,
            )

    return _in_terminal(run, progress)


def run_shard(
    source: str,
    shard: Shard,
    generation: str,
    index_name: str | None = None,
    *,
    settings: Settings | None = None,
    encoder_factory: Callable[[], Encoder] | None = None,
    progress: type[TerminalProgress] = TerminalProgress,
    decoder: str = DECODER,
) -> int:
    """The same for one shard of a source, into a generation that several workers fill."""
    chosen = settings or read_settings()

    async def run(shown: TerminalProgress) -> Report:
        with closing(await asyncio.to_thread(open_source, source, chosen)) as opened:
            return await index_shard(
                opened,
                shard,
                generation,
                settings=chosen,
                encoder_factory=encoder_factory or partial(_load_encoder, chosen),
                index_name=index_name or chosen.index_name,
                progress=shown,
                decoder=decoder,
            )

    return _in_terminal(run, progress)


def run_finish(
    generation: str,
    index_name: str | None = None,
    *,
    settings: Settings | None = None,
    encoder_factory: Callable[[], Encoder] | None = None,
    progress: type[TerminalProgress] = TerminalProgress,
    promote: bool = True,
) -> int:
    """Completes a generation that workers have filled. Returns the exit code."""
    chosen = settings or read_settings()

    async def run(shown: TerminalProgress) -> Report:
        return await finish(
            generation,
            settings=chosen,
            encoder_factory=encoder_factory or partial(_load_encoder, chosen),
            index_name=index_name or chosen.index_name,
            progress=shown,
            promote=promote,
        )

    return _in_terminal(run, progress)


def _in_terminal(work: Callable[[TerminalProgress], Awaitable[Report]], progress: type[TerminalProgress]) -> int:
    """Does it with a progress display that signals end in order, prints what came of it, returns the exit code."""
    console = Console(stderr=True)
    interrupts = _Interrupts()

    async def run() -> Report:
        interrupts.listen()
        with progress(console, interrupts.at_stage) as shown:
            return await work(shown)

    try:
        report = asyncio.run(run())
    except (asyncio.CancelledError, KeyboardInterrupt):
        _say(
            console,
            "Stopped. What serves is as it was. Run the same command again: it goes on from here, a few batches "
            "of pictures at most are done again.",
        )
        return 128 + (interrupts.received or signal.SIGINT)
    except SightlineError as error:
        _say(console, f"Error: {error}")
        return error.exit_code
    print_summary(report, Console())
    return 0


def _load_encoder(settings: Settings) -> Encoder:
    from engine.encoders.choice import load_encoder  # noqa: PLC0415 - takes a second

    return load_encoder(settings)


class _Interrupts:
    """Turns signals into an orderly stop, and leaves them to the system where Python can't hear them."""

    def __init__(self) -> None:
        self.received: int | None = None

    def listen(self) -> None:
        """The first signal cancels the current task; a second one ends the process at once, which is safe too."""
        self._loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task  # noqa: S101 - called in one

        def stop(number: int) -> None:
            if self.received:
                os._exit(128 + number)
            self.received = number
            task.cancel()

        for number in _SIGNALS:
            self._loop.add_signal_handler(number, stop, int(number))
        self._restore = [(number, signal.getsignal(number)) for number in _SIGNALS]

    def at_stage(self, name: str) -> None:
        """In two stages the event loop can't run for seconds or minutes, and neither has anything to lose.

        While the model is loaded a signal is raised on the spot; while the graph is built Edge lets no Python run, so
        that it ends the process itself.
        """
        special: dict[str, Any] = {"loading the model": self._raise, "optimizing": signal.SIG_DFL}
        for number, handler in self._restore:
            signal.signal(number, special.get(name, handler))

    def _raise(self, number: int, _: FrameType | None) -> NoReturn:
        self.received = number
        for each in _SIGNALS:  # the loop has been told of this signal too, and would take it for a second one
            self._loop.remove_signal_handler(each)
        raise KeyboardInterrupt


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
