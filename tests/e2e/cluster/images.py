"""Container images without a registry: one from Debian by debootstrap, the rest built on it by buildah.

Everything is kept in the user's cache, buildah's layers too, so that an image whose sources did not change is there
at once.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.cluster.processes import ClusterFailed, remove, run
from tests.e2e.cluster.programs import CACHE, Programs, alone

SOURCES = Path(__file__).parent / "images"
STORE = CACHE / "images"
SUITE = "bookworm"
BASE = "localhost/debian-python:12"
PAUSE = "localhost/pause:1"
UNUSED = ("./usr/share/doc", "./usr/share/locale", "./usr/share/man", "./var/cache/apt", "./var/lib/apt/lists", "./dev")
ISOLATED = ("unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
"""What is mounted on the way is gone when the command ends, and so is every process of it."""


class Images:
    """Builds images as archives that a node can load."""

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
                run(
                    self._programs["gcc"],
                    "-O2",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-static",
                    "-o",
                    program,
                    f"{program}.c",
                )
                self._build(PAUSE, scratch, scratch / "image.tar")
                remove(kept)
                scratch.rename(kept)
        return kept

    def base(self) -> Path:
        """The archive of `BASE`: Debian with Python. Not pinned: it holds Debian's packages of the day it was made.

        Raises:
            ClusterFailed: when Debian's packages can't be had.
        """
        kept = STORE / f"base-{SUITE}-{_digest(SOURCES / 'base')}"
        if not kept.is_dir():
            with alone():
                scratch = _scratch()
                shutil.copytree(SOURCES / "base", scratch, dirs_exist_ok=True)
                root = scratch / "root"
                self._isolated(
                    "debootstrap", "--variant=minbase", "--include=python3", SUITE, str(root), *_mirror(self._programs)
                )
                exclude = [f"--exclude={path}/*" for path in UNUSED]
                run(
                    "tar",
                    "--create",
                    "--numeric-owner",
                    *exclude,
                    f"--directory={root}",
                    f"--file={scratch}/rootfs.tar",
                    ".",
                )
                remove(root)
                self._build(BASE, scratch, scratch / "image.tar")
                (scratch / "rootfs.tar").unlink()
                remove(kept)
                scratch.rename(kept)
        return kept / "image.tar"

    def build(self, name: str, context: Path, *, dockerfile: Path | None = None, arguments: Sequence[str] = ()) -> Path:
        """The archive of an image built as `docker build` would; `FROM localhost/debian-python:12` works.

        `arguments` are NAME=VALUE for the Dockerfile's ARGs.

        Raises:
            ClusterFailed: when it can't be built, with what buildah said.
        """
        base = self.base()
        archive = STORE / f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.tar"
        with alone():
            if not self._buildah("images", "--quiet", "--filter", f"reference={BASE}").strip():
                self._buildah("pull", f"oci-archive:{base}")
            extra = [f"--build-arg={argument}" for argument in arguments]
            self._build(name, context, archive, *extra, *([f"--file={dockerfile}"] if dockerfile else []))
        return archive

    def _build(self, name: str, context: Path, archive: Path, *options: str) -> None:
        self._buildah("bud", "--isolation=chroot", "--pull-never", "--layers", *options, f"--tag={name}", str(context))
        archive.unlink(missing_ok=True)
        self._buildah("push", "--disable-compression", name, f"oci-archive:{archive}:{name}")

    def _buildah(self, *words: str) -> str:
        store = (f"--root={STORE / 'storage'}", f"--runroot={STORE / 'run'}", "--storage-driver=overlay")
        return self._isolated("buildah", *store, *words)

    def _isolated(self, program: str, *words: str) -> str:
        return run(*ISOLATED, self._programs[program], *words, timeout_s=1800)


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


def _mirror(programs: Programs) -> Sequence[str]:
    """Where this system gets Debian's packages from; none when it doesn't say, and debootstrap uses Debian's own."""
    try:
        lines = run(programs["apt-get"], "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)").splitlines()
    except ClusterFailed:
        return ()
    return [address for suite, part, address in map(str.split, set(lines)) if (suite, part) == (SUITE, "main")][:1]
