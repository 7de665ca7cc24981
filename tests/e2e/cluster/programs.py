"""The programs of a cluster: built from Go modules that are pinned by hash, once, and kept for every later start.

Each folder in `programs/` is a Go module of its own, so that one program's versions never decide another's. What it
builds is kept in the user's cache under the hash of the folder and the build flags, and is built anew when one of
these changes.
The CNI plugins and nftables come from Debian: `tools/install-test-programs`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

MODULES = Path(__file__).parent / "programs"
CACHE = platformdirs.user_cache_path("sightline") / "cluster"
DEBIAN_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")
INSTALL = "run tools/install-test-programs, or `make test`, which does"


class ProgramMissing(Exception):
    """A program that a cluster needs is neither here nor can it be built; the message says what to install."""


@dataclass(frozen=True)
class Recipe:
    """How one Go module is built.

    `stamps` are variables that are set to the version, as the projects' own builds do; `{version}`, `{major}` and
    `{minor}` are filled in from go.mod. `data` are files of the module that are kept beside its programs.
    """

    name: str
    module: str
    stamps: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    cgo: bool = False
    data: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its go.mod lies."""
        return MODULES / self.name

    @property
    def version(self) -> str:
        """As go.mod pins it, without the `v`."""
        found = re.search(
            rf"^(?:require|\t)\s*{re.escape(self.module)} v(\S+)", (self.folder / "go.mod").read_text(), re.MULTILINE
        )
        if found is None:
            raise ProgramMissing(f"{self.folder}/go.mod requires no {self.module}. Add it with `go get -tool`.")
        return found[1]

    @property
    def flags(self) -> tuple[str, ...]:
        """What `go build` is given."""
        major, minor, *_ = self.version.split(".")
        stamps = [f"-X {stamp.format(version=self.version, major=major, minor=minor)}" for stamp in self.stamps]
        return ("-trimpath", "-tags", ",".join(self.tags), "-ldflags", " ".join(("-s -w", *stamps)))

    @property
    def built(self) -> Path:
        """Where its programs lie once built: named by everything that they are made from."""
        digest = hashlib.sha256(repr((self.flags, self.cgo, self.data)).encode())
        for path in sorted(self.folder.iterdir()):
            digest.update(path.read_bytes())
        return CACHE / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"


KUBERNETES_STAMPS = tuple(
    f"{package}.{variable}"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    for variable in ("gitVersion=v{version}", "gitMajor={major}", "gitMinor={minor}", "gitTreeState=clean")
)
RECIPES = (
    Recipe("kubernetes", "k8s.io/kubernetes", KUBERNETES_STAMPS),
    Recipe(
        "containerd",
        "github.com/containerd/containerd/v2",
        ("github.com/containerd/containerd/v2/version.Version={version}",),
    ),
    Recipe("etcd", "go.etcd.io/etcd/server/v3"),
    Recipe("coredns", "github.com/coredns/coredns"),
    Recipe("runc", "github.com/opencontainers/runc", tags=("seccomp",), cgo=True),
    Recipe(
        "kwok",
        "sigs.k8s.io/kwok",
        data=(
            "kustomize/stage/node/fast/node-initialize.yaml",
            "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
            "kustomize/stage/pod/fast/pod-complete.yaml",
            "kustomize/stage/pod/fast/pod-delete.yaml",
            "kustomize/stage/pod/fast/pod-ready.yaml",
        ),
    ),
    Recipe("helm", "helm.sh/helm/v3", ("helm.sh/helm/v3/internal/version.version=v{version}",)),
    Recipe("kubeconform", "github.com/yannh/kubeconform", ("main.version=v{version}",)),
    Recipe("prometheus-adapter", "sigs.k8s.io/prometheus-adapter"),
)


class Programs:
    """Paths by name: what was built here first, then what the system has."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.search_path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", ""), *DEBIAN_FOLDERS])

    def __getitem__(self, name: str) -> str:
        path = shutil.which(name, path=self.search_path)
        if path is None:
            raise ProgramMissing(f"{name} is missing: {INSTALL}.")
        return path


def built(say: Callable[[str], None] = lambda _: None) -> Programs:
    """All programs, built where they are missing: about 15 minutes the first time on two cores, nothing later.

    Several processes may ask at once: one builds, the others wait. A build that is ended goes on where it stopped.

    Raises:
        ProgramMissing: when there is no Go that can build them, or a build fails.
    """
    if missing := [recipe for recipe in RECIPES if not recipe.built.is_dir()]:
        with alone():
            for recipe in missing:
                if not recipe.built.is_dir():
                    say(f"Building {recipe.name} {recipe.version} ...")
                    _build(recipe)
            shutil.rmtree(CACHE / "building", ignore_errors=True)
    return Programs([recipe.built for recipe in RECIPES])


@contextlib.contextmanager
def alone(what: str = "building") -> Iterator[None]:
    """One process at a time does this. The lock goes with its holder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(recipe: Recipe) -> None:
    """Go's own caches lie in `building` until everything is built: they are gigabytes, and of no use after."""
    scratch = CACHE / "building"
    out = scratch / recipe.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _go(recipe, "build", *recipe.flags, "-o", f"{out}/", "tool")
    if recipe.data:
        module = Path(_go(recipe, "list", "-m", "-f", "{{.Dir}}", recipe.module).strip())
        for name in recipe.data:
            shutil.copyfile(module / name, out / Path(name).name)
    out.rename(recipe.built)  # so that a half-finished build never counts


def _go(recipe: Recipe, *words: str) -> str:
    """What a command of Go prints in the recipe's folder."""
    go = shutil.which("go")
    if go is None:
        raise ProgramMissing("Go 1.21 or newer builds the cluster's programs, and there is none here. Install Go.")
    scratch = CACHE / "building"
    environment = {
        **os.environ,
        "CGO_ENABLED": str(int(recipe.cgo)),
        "GOCACHE": str(scratch / "go-build"),
        "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
        "GOMODCACHE": str(scratch / "go-mod"),
        "GOTOOLCHAIN": "auto",  # an older Go fetches the one that go.mod asks for
        "GOWORK": "off",
    }
    done = subprocess.run(
        [go, *words],
        cwd=recipe.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = "\n".join(done.stderr.splitlines()[-20:])
        raise ProgramMissing(
            f"{recipe.name} {recipe.version} can't be built:\n{said}\nIf headers are missing, {INSTALL}."
        )
    return done.stdout
