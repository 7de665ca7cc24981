"""The peers: how each is prepared, started and asked, and what one has to know to read its row.

All take the same vectors and the settings that their own documentation starts with. Where a peer offers a choice, it
gets the faster one. Sightline alone makes its index itself, from the picture files, and remembers no answer.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import numpy as np
import orjson

from indexing.bench.peers.material import NEIGHBOURS, Environments, Material, adapter
from indexing.bench.peers.processes import Command, PeerFailed, finish

_INDEX_S: Final = 600.0
_UPLOAD: Final = 100  # vectors in one request
_UPLOAD_S: Final = 60.0
_EXPORT_PICTURES: Final = 8  # enough to make a model run for the first time

_SEARCH: Final = """query Search($query: String!, $first: Int!) {
  search(query: $query, first: $first) { edges { score node { fileName url thumbnailUrl } } }
}"""


class Peer(Protocol):
    """One of the things compared. `path` is where requests are POSTed; every answer is JSON."""

    name: str
    path: str
    note: str

    def prepare(self, material: Material, environments: Environments) -> float | None:
        """Makes the index. Returns the seconds it took from the picture files, None where it makes none of its own."""
        ...

    def command(self, material: Material, environments: Environments, port: int) -> Command:
        """Starts the service on the loopback address."""
        ...

    def fill(self, material: Material, url: str) -> None:
        """Brings the pictures in, for a service that takes them while it runs."""
        ...

    def body(self, query: str) -> str:
        """The request for the ten best pictures."""
        ...

    def found(self, material: Material, answer: Any) -> list[str]:
        """The file names in an answer, best first. Raises `LookupError`, `TypeError` or `ValueError` for other JSON."""
        ...


class _Base:
    """What most peers do not need."""

    def prepare(self, material: Material, environments: Environments) -> float | None:  # noqa: ARG002 - for others
        return None

    def fill(self, material: Material, url: str) -> None:
        pass


class Sightline(_Base):
    """What this project serves."""

    name = "sightline"
    path = "/graphql"
    note = "sightline: `sightline index` and `sightline serve` as they come, without its caches."

    def prepare(self, material: Material, environments: Environments) -> float | None:  # noqa: ARG002 - it is ours
        """Indexes the files. A few are indexed first, because a model is exported for the CPU when it is first used."""
        data = material.work / "sightline"
        shutil.rmtree(data, ignore_errors=True)
        few = data / "few"
        few.mkdir(parents=True)
        for name in material.names[:_EXPORT_PICTURES]:
            shutil.copy(material.pictures / name, few)
        log = material.work / "sightline-index.log"
        finish(self._sightline(material, "index", str(few), "--index", "few"), log, _INDEX_S)
        return finish(self._sightline(material, "index", str(material.pictures)), log, _INDEX_S)

    def command(self, material: Material, environments: Environments, port: int) -> Command:  # noqa: ARG002 - the same
        """`sightline serve`."""
        command = self._sightline(material, "serve")
        return Command(
            command.words, {**command.environment, "API_PORT": str(port), "API_HOST": "127.0.0.1", "API_DRAIN_S": "0"}
        )

    def body(self, query: str) -> str:
        """A GraphQL request."""
        return _json({"query": _SEARCH, "variables": {"query": query, "first": NEIGHBOURS}})

    def found(self, material: Material, answer: Any) -> list[str]:  # noqa: ARG002 - names are in the answer
        """File names of the edges."""
        return [edge["node"]["fileName"] for edge in answer["data"]["search"]["edges"]]

    @staticmethod
    def _sightline(material: Material, *words: str) -> Command:
        values = {
            "INDEX_PATH": str(material.work / "sightline"),
            "INDEX_NAME": "peers",
            "CLIP_MODEL": material.model,
            "CLIP_PRETRAINED": material.pretrained,
            "CACHE_MAX_BYTES": "0",
            "CACHE_EMBEDDING_BYTES": "0",
            "REDIS_URL": "",
        }
        return Command((sys.executable, "-m", "sightline", *words), values)


class Plain(_Base):
    """Plain open_clip with `search` behind it: `numpy` or `faiss`."""

    path = "/search"

    def __init__(self, search: str) -> None:
        self.name = search
        self._search = search
        self.note = {
            "numpy": "numpy: plain open_clip and all vectors in a NumPy array, behind Starlette and uvicorn.",
            "faiss": "faiss: the same with an HNSW index of faiss, with as many links and candidates as Sightline's.",
        }[search]

    def prepare(self, material: Material, environments: Environments) -> float | None:  # noqa: ARG002 - it is done
        """Nothing: making the material was this."""
        return material.embed_s

    def command(self, material: Material, environments: Environments, port: int) -> Command:
        """The service in `adapters/plain.py`."""
        python, model = environments("open-clip"), material.model
        files = material.vectors_file, material.list_file
        return adapter(python, "plain", "serve", model, material.weights, *files, self._search, port)

    def body(self, query: str) -> str:
        """What the service takes."""
        return _json({"query": query, "first": NEIGHBOURS})

    def found(self, material: Material, answer: Any) -> list[str]:  # noqa: ARG002 - names are in the answer
        """File names."""
        return [Path(result["picture"]).name for result in answer["results"]]


class ClipRetrieval(_Base):
    """clip-retrieval's back end."""

    name = "clip-retrieval"
    path = "/knn-service"
    note = (
        "clip-retrieval: `clip-retrieval back` on an index by `clip-retrieval index`, behind waitress and not Flask's "
        "development server; deduplication, safety model and pictures in the answer are off."
    )

    def prepare(self, material: Material, environments: Environments) -> float | None:
        """Times its own inference on the files, then its index, which is made of the vectors that all peers get."""
        python, work = environments("clip-retrieval"), material.work / "clip-retrieval"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        log = material.work / "clip-retrieval-index.log"

        def run(*words: str) -> float:
            command = adapter(python, "clip_retrieval_back", "run", material.model, material.weights, *words)
            return finish(Command(command.words, {**command.environment, **_OFFLINE}), log, _INDEX_S)

        served = work / "served"
        took = run(
            "inference",
            f"--input_dataset={material.pictures}",
            f"--output_folder={work / 'own'}",
            "--enable_text=False",
            "--num_prepro_workers=2",
        )
        vectors = material.vectors_file, material.list_file
        finish(adapter(python, "clip_retrieval_back", "prepare", *vectors, served), log, _INDEX_S)
        took += run("index", f"--embeddings_folder={served}", f"--index_folder={served / 'index'}")
        (work / "indices.json").write_text(json.dumps({"pictures": str(served / "index")}), encoding="utf-8")
        return took

    def command(self, material: Material, environments: Environments, port: int) -> Command:
        """`clip-retrieval back`, without the models that it would have to download."""
        command = adapter(
            environments("clip-retrieval"),
            "clip_retrieval_back",
            "run",
            material.model,
            material.weights,
            "back",
            f"--indices_paths={material.work / 'clip-retrieval' / 'indices.json'}",
            f"--port={port}",
            "--enable_mclip_option=False",
            "--provide_aesthetic_embeddings=False",
        )
        return Command(command.words, {**command.environment, **_OFFLINE})

    def body(self, query: str) -> str:
        """A k-nearest-neighbours request."""
        return _json({"text": query, "modality": "image", "num_images": NEIGHBOURS, "indice_name": "pictures"})

    def found(self, material: Material, answer: Any) -> list[str]:  # noqa: ARG002 - names are in the answer
        """File names."""
        return [Path(result["url"]).name for result in answer]


class Infinity(_Base):
    """infinity-emb's embeddings, searched by the caller."""

    name = "infinity"
    path = "/embeddings"
    note = (
        "infinity: an embeddings server; the caller compares the vector with all pictures in NumPy. That time is in "
        "the latencies, not in searches_per_s. It reads Hugging Face's format only, which has no ResNet: of "
        "sightline-small it runs the text tower."
    )

    def command(self, material: Material, environments: Environments, port: int) -> Command:
        """`infinity_emb v2` with its defaults on the CPU."""
        words = (
            str(environments("infinity").with_name("infinity_emb")),
            "v2",
            *("--model-id", str(material.weights / "transformers")),
            *("--served-model-name", "clip"),
            *("--host", "127.0.0.1"),
            *("--port", str(port)),
            *("--engine", "torch"),
            *("--device", "cpu"),
        )
        return Command(words, {"PYTHONPATH": "", "DO_NOT_TRACK": "1", **_OFFLINE})

    def body(self, query: str) -> str:
        """An embedding of a text, as base64, which is faster than a list of numbers."""
        return _json({"model": "clip", "input": [query], "modality": "text", "encoding_format": "base64"})

    def found(self, material: Material, answer: Any) -> list[str]:
        """Searches."""
        vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), np.float32)
        best = np.argsort(-(material.vectors @ vector))[:NEIGHBOURS]
        return [Path(material.names[at]).name for at in best]


class ClipServer(_Base):
    """clip-server's encoder with AnnLite behind it, the index that its extra `search` installs."""

    name = "clip-server"
    path = "/post"
    note = (
        "clip-server: its encoder and the AnnLite index of its extra `search` in one flow, over HTTP. Its pins date "
        "from 2023: its lock file overrides them where they don't run any more, requirements/clip-server.in says why."
    )

    def command(self, material: Material, environments: Environments, port: int) -> Command:
        """`python -m clip_server FLOW`, with a HOME whose cache of models holds ours."""
        home = material.work / "clip-server"
        shutil.rmtree(home, ignore_errors=True)
        cache = home / ".cache" / "clip"
        cache.mkdir(parents=True)
        padded = material.weights / "padded"
        os.link(padded / "model.pt", cache / "model.pt")
        executors = Path(__file__).parent / "adapters" / "clip_server_executor.py"
        encoder = {
            "jtype": "CLIPEncoder",
            "with": {"name": f"{material.model}::local"},
            "metas": {"py_modules": [str(executors)]},
        }
        index = {
            "jtype": "AnnLiteIndexer",
            "with": {"n_dim": material.vectors.shape[1], "limit": NEIGHBOURS},
            "metas": {"py_modules": ["annlite.executor"]},
        }
        flow = {
            "jtype": "Flow",
            "version": "1",
            "with": {"port": port, "protocol": "http", "host": "127.0.0.1"},
            "executors": [
                {"name": "encoder", "uses": encoder},
                {"name": "index", "uses": index, "workspace": str(home / "workspace")},
            ],
        }
        (home / "flow.yml").write_text(json.dumps(flow), encoding="utf-8")  # JSON is YAML
        words = (str(environments("clip-server")), "-m", "clip_server", str(home / "flow.yml"))
        values = {
            "PYTHONPATH": "",
            "HOME": str(home),
            "CLIP_SERVER_MODEL": material.model,
            "CLIP_SERVER_WEIGHTS": str(padded),
            "NO_VERSION_CHECK": "1",
            "JINA_OPTOUT_TELEMETRY": "1",
        }
        return Command(words, values)

    def fill(self, material: Material, url: str) -> None:
        """Sends the vectors, and waits until the last can be found: it indexes in the background."""
        rows = [
            {"id": str(at), "uri": name, "embedding": vector.tolist()}
            for at, (name, vector) in enumerate(zip(material.names, material.vectors, strict=True))
        ]
        with httpx.Client(trust_env=False, timeout=_UPLOAD_S) as http:
            for at in range(0, len(rows), _UPLOAD):
                sent = {"data": rows[at : at + _UPLOAD], "execEndpoint": "/index", "targetExecutor": "index"}
                _accepted(http.post(f"{url}{self.path}", json=sent))
            end = time.monotonic() + _UPLOAD_S
            ask = {"data": [], "execEndpoint": "/status", "targetExecutor": "index"}
            while time.monotonic() < end:
                told = _accepted(http.post(f"{url}{self.path}", json=ask))
                if _indexed(told) >= len(rows):
                    return
                time.sleep(0.2)
        raise PeerFailed(f"AnnLite did not index {len(rows):,} vectors in {_UPLOAD_S:.0f} s.")

    def body(self, query: str) -> str:
        """A document that goes through the encoder and the index."""
        return _json({"data": [{"text": query}], "execEndpoint": "/search", "parameters": {"limit": NEIGHBOURS}})

    def found(self, material: Material, answer: Any) -> list[str]:  # noqa: ARG002 - names are in the answer
        """File names of the matches; none before the index is filled. Failures have status 200 too."""
        if failure := answer["header"]["status"]:
            raise ValueError(str(failure)[:200])
        return [Path(match["uri"]).name for match in answer["data"][0]["matches"] or ()]


_OFFLINE: Final = {"HF_HUB_OFFLINE": "1"}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _accepted(response: httpx.Response) -> Any:
    """The answer of jina's gateway, which has status 200 for failures too."""
    told = response.json()
    status = (told.get("header") or {}).get("status") if response.status_code == httpx.codes.OK else told
    if status:
        raise PeerFailed(f"It refuses the vectors: {str(status)[:300]}")
    return told


def _indexed(told: Any) -> int:
    """How many vectors AnnLite says it has: it answers with a document whose tags are its state."""
    states = [document.get("tags") or {} for document in told.get("data") or ()]
    return max((int(state.get("index_size", 0)) for state in states), default=0)


PEERS: Final[Sequence[Peer]] = (
    Sightline(),
    Plain("numpy"),
    Plain("faiss"),
    ClipRetrieval(),
    Infinity(),
    ClipServer(),
)
"""All of them, in the order of the report."""
