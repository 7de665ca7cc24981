"""Container images without a registry: Debian's packages for a base, the rest built on it by buildah.

They are made as those of the product are, by `tools/images`, and lie in the same store, in the user's cache: an image
whose sources did not change is there at once, and one may be built on another.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.cluster.processes import remove, run
from tests.e2e.cluster.programs import CACHE, Programs, alone

TOOLS = Path(__file__).parents[3] / "tools" / "images"
SOURCES = Path(__file__).parent / "images"
STORE = CACHE / "images"
PAUSE = "localhost/pause:1"
BUILD_S = 1800


class Images:
    """Builds images, and archives of them that a node can load."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def pause(self) -> Path:
        """The folder of `pause`, the program, and `image.tar`, the image of it: the first process of every pod."""
        sources = SOURCES / "pause"
        kept = STORE / f"pause-{_digest(sources)}"
        if not kept.is_dir():
            with alone():
                scratch = _scratch()
                shutil.copytree(sources, scratch, dirs_exist_ok=True)
                program = str(scratch / "pause")
                warnings = ("-Wall", "-Wextra", "-Werror")
                run(self._programs["gcc"], "-O2", *warnings, "-static", "-o", program, f"{program}.c")
                _build(PAUSE, scratch)
                _push(PAUSE, scratch / "image.tar")
                remove(kept)
                scratch.rename(kept)
        return kept

    def base(self, *packages: str) -> str:
        """The name of an image of Debian with Python and more packages. Not pinned: they are those of the day.

        Raises:
            ClusterFailed: when Debian's packages can't be had.
        """
        with alone():
            return run(str(TOOLS / "base"), *packages, timeout_s=BUILD_S).strip()

    def build(self, name: str, context: Path, *, dockerfile: Path | None = None, arguments: Sequence[str] = ()) -> Path:
        """The archive of an image built as `docker build` would; any that was built here can be its base.

        `arguments` are NAME=VALUE for the Dockerfile's ARGs.

        Raises:
            ClusterFailed: when it can't be built, with what buildah said.
        """
        extra = [f"--build-arg={argument}" for argument in arguments]
        with alone():
            _build(name, context, *extra, *([f"--file={dockerfile}"] if dockerfile else []))
        return self.archive(name)

    def archive(self, name: str) -> Path:
        """The archive of an image that was built here."""
        archive = STORE / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.tar"
        STORE.mkdir(parents=True, exist_ok=True)
        with alone():
            _push(name, archive)
        return archive


def _build(name: str, context: Path, *options: str) -> None:
    ways = ("--isolation=chroot", "--pull-never", "--layers", "--force-rm")
    _buildah("bud", *ways, *options, f"--tag={name}", str(context))


def _push(name: str, archive: Path) -> None:
    archive.unlink(missing_ok=True)
    _buildah("push", "--disable-compression", name, f"oci-archive:{archive}:{name}")


def _buildah(*words: str) -> str:
    return run(str(TOOLS / "buildah"), *words, timeout_s=BUILD_S)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _scratch() -> Path:
    """An empty folder to build in, renamed when it is whole."""
    folder = STORE / "building"
    remove(folder)
    folder.mkdir(parents=True)
    return folder
