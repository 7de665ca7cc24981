"""An image unpacked from its archive, and a container of it: read-only, no root, first of its own processes.

Not a container runtime: the node of `tests/e2e/cluster` has one. This shows in seconds what an image does under the
conditions that pods give it, and needs nothing but util-linux and root.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = 10001
ENTER = f"""
set -eu
root=$1
shift
mount --bind "$root" "$root"
for folder in tmp cache dev; do mount -t tmpfs none "$root/$folder"; done
chmod 1777 "$root/tmp"
chown {USER}:{USER} "$root/cache"
mkdir "$root/dev/shm"
mount -t tmpfs none "$root/dev/shm"
for device in null zero random urandom; do
  touch "$root/dev/$device"
  mount --bind /dev/$device "$root/dev/$device"
done
mount -t proc proc "$root/proc"
mount --bind "$1" "$root/data"
shift
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec={USER}:{USER} --groups= "$root" /usr/bin/env -i "$@"
"""
"""Takes the root, the folder for /data, and then what `env` does: variables and a command."""

PRIVATE = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")


@dataclass(frozen=True)
class Image:
    """What an archive holds. `late` are the files that layers after the first one, the base's, bring."""

    config: dict[str, Any]
    root: Path
    late: tuple[tarfile.TarInfo, ...]
    size: int

    @classmethod
    def unpack(cls, archive: Path, root: Path) -> Image:
        """Unpacks an OCI archive into an empty folder."""
        with tarfile.open(archive) as outer:

            def blob(digest: str) -> tarfile.ExFileObject | Any:
                return outer.extractfile(f"blobs/{digest.replace(':', '/')}")

            index = json.load(outer.extractfile("index.json"))  # type: ignore[arg-type]
            manifest = json.load(blob(index["manifests"][0]["digest"]))
            config = json.load(blob(manifest["config"]["digest"]))
            late: list[tarfile.TarInfo] = []
            size = 0
            for number, layer in enumerate(manifest["layers"]):
                with tarfile.open(fileobj=blob(layer["digest"])) as files:
                    members = list(_laid_over(files, root))
                size += sum(member.size for member in members)
                late.extend(members if number else ())
        return cls(config, root, tuple(late), size)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that its containers have."""
        return dict(entry.split("=", 1) for entry in self.config["config"]["Env"])

    @property
    def python(self) -> str:
        """The version of its Python."""
        settings = (self.root / "opt/sightline/pyvenv.cfg").read_text().splitlines()
        return next(line.removeprefix("version = ") for line in settings if line.startswith("version = "))

    def installed(self) -> dict[str, str]:
        """Names and versions of the Python distributions in it."""
        found = self.root.glob("opt/sightline/lib/python3*/site-packages/*.dist-info/METADATA")
        return dict(_name_and_version(file) for file in found)

    def run(
        self, data: Path, *words: str, timeout_s: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """What a container prints that ends by itself; `words` are the command's arguments, or the image's own."""
        return subprocess.run(
            self._command(data, words, variables), capture_output=True, text=True, check=False, timeout=timeout_s
        )

    @contextmanager
    def running(self, data: Path, *words: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A container that goes on, until this is left; what it says goes to `data/log`."""
        with (data / "log").open("wb") as log:
            process = subprocess.Popen(self._command(data, words, variables), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _command(self, data: Path, words: tuple[str, ...], variables: Mapping[str, str]) -> list[str]:
        config = self.config["config"]
        data.mkdir(exist_ok=True)
        os.chown(data, USER, USER)
        pairs = [f"{name}={value}" for name, value in {**self.environment, **variables}.items()]
        command = [*config["Entrypoint"], *(words or config["Cmd"])]
        enter = ["sh", "-c", ENTER, "sh", str(self.root), str(data), f"--chdir={config['WorkingDir']}", *pairs]
        return [*PRIVATE, *enter, *command]


def terminate(container: subprocess.Popen[bytes], patience_s: float = 60) -> int:
    """Sends SIGTERM to the first process in a container, as a node does, and returns with which status it ended."""
    (first,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGTERM)
    return container.wait(patience_s)


def _laid_over(files: tarfile.TarFile, root: Path) -> Iterator[tarfile.TarInfo]:
    for member in files:
        path = Path(member.name)
        if path.name == ".wh..wh..opq":
            shutil.rmtree(root / path.parent)
            (root / path.parent).mkdir()
        elif path.name.startswith(".wh."):
            gone = root / path.with_name(path.name.removeprefix(".wh."))
            shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink()
        else:
            files.extract(member, root, numeric_owner=True, filter="fully_trusted")
            yield member


def _name_and_version(metadata: Path) -> tuple[str, str]:
    fields = dict(line.split(": ", 1) for line in metadata.read_text().split("\n\n")[0].splitlines() if ": " in line)
    return fields["Name"].lower().replace("_", "-").replace(".", "-"), fields["Version"]


def has_rights_of_its_owner(file: tarfile.TarInfo) -> bool:
    """Whether who runs it becomes its owner, or one of its group."""
    return file.isfile() and bool(file.mode & (stat.S_ISUID | stat.S_ISGID))
