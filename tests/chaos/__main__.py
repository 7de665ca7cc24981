"""`make chaos`: a longer story than the tests', with a report in build/chaos.json.

    python -m tests.chaos [--kills 200] [--seed N] [--out build/chaos.json]

Without a seed it takes another one each time; the report names it, and with it the same story can be played again. (The
same kills in the same order: processes are never equally quick, so instants differ by as much.)
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.story import Story

_MEMORY = Path("/dev/shm")  # noqa: S108 - a place for the disk's work, not for secrets
_ENOUGH = 4 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.chaos", description="Kills everything that can die, again and again.")
    parser.add_argument("--kills", type=int, default=200, help="kills that hit a running process")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="what the story is drawn from")
    parser.add_argument("--out", type=Path, default=Path("build/chaos.json"), help="where the report goes")
    told = parser.parse_args()
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ENOUGH
    folder = Path(tempfile.mkdtemp(prefix="sightline-chaos-", dir=_MEMORY if roomy else None))
    story = Story(folder, told.seed, told.kills)
    try:
        asyncio.run(story.tell())
    except BaseException:
        print(f"What was there is left in {folder}.", file=sys.stderr)  # noqa: T201 - a program for people
        raise
    else:
        shutil.rmtree(folder)
    finally:
        story.report.write(told.out)
        print(f"{story.report}\n\n{told.out} has it all.")  # noqa: T201 - the same


if __name__ == "__main__":
    main()
