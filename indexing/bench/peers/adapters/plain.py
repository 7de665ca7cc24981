"""What one writes first: plain open_clip, its embeddings in a NumPy array, and a small web service in front.

    python plain.py index   MODEL WEIGHTS PICTURES LIST OUT    the pictures named in LIST, to OUT (n, d) float32
    python plain.py texts   MODEL WEIGHTS LIST OUT             the texts in LIST, the same
    python plain.py serve   MODEL WEIGHTS EMBEDDINGS LIST SEARCH PORT

LIST is a JSON list of strings, OUT a `.npy` file, WEIGHTS a folder written by `weights.py`. SEARCH is `numpy` (exact)
or `faiss` (HNSW, as many links and candidates as Sightline's defaults). The service answers
`POST /search` of `{"query", "first"}` with `{"results": [{"picture", "score"}]}`. Runs in the environment `open-clip`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

BATCH = 32
LINKS, BUILD_CANDIDATES, CANDIDATES = 16, 200, 128

Search = Callable[[Any, int], tuple[Any, Any]]
"""Scores and rows of the best of a query (1, d)."""


class Model:
    """A model of open_clip, used as its README shows."""

    def __init__(self, name: str, weights: Path) -> None:
        open_clip.add_model_config(weights / "configs")
        self._model, _, self._preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=str(weights / "model.safetensors"),
            **json.loads((weights / "preprocess.json").read_text(encoding="utf-8")),
        )
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(name)

    def texts(self, texts: list[str]) -> Any:
        """Unit vectors (n, d)."""
        with torch.no_grad():
            return self._model.encode_text(self._tokenizer(texts), normalize=True).numpy()

    def pictures(self, files: list[Path]) -> Any:
        """Unit vectors (n, d)."""
        with torch.no_grad():
            pixels = torch.stack([self._preprocess(Image.open(file).convert("RGB")) for file in files])
            return self._model.encode_image(pixels, normalize=True).numpy()


def batches(encode: Callable[[list[Any]], Any], what: list[Any]) -> Any:
    """All of it, (n, d) float32."""
    return np.concatenate([encode(what[at : at + BATCH]) for at in range(0, len(what), BATCH)]).astype(np.float32)


def numpy_search(embeddings: Any) -> Search:
    """Compares with everything."""

    def search(query: Any, first: int) -> tuple[Any, Any]:
        scores = embeddings @ query[0]
        best = np.argsort(-scores)[:first]
        return scores[best], best

    return search


def faiss_search(embeddings: Any) -> Search:
    """Walks a graph."""
    import faiss  # type: ignore[import-not-found]  # noqa: PLC0415 - not in every environment that serves with NumPy

    index = faiss.IndexHNSWFlat(embeddings.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_CANDIDATES
    index.hnsw.efSearch = CANDIDATES
    index.add(embeddings)

    def search(query: Any, first: int) -> tuple[Any, Any]:
        scores, rows = index.search(query, first)
        return scores[0], rows[0]

    return search


def serve(model: Model, find: Search, pictures: list[str], port: int) -> None:
    """Answers until a signal ends it. The work runs in threads, so that the event loop stays free."""

    def results(query: str, first: int) -> list[dict[str, Any]]:
        scores, rows = find(model.texts([query]), first)
        return [{"picture": pictures[row], "score": float(score)} for score, row in zip(scores, rows, strict=True)]

    async def search(request: Request) -> JSONResponse:
        asked = await request.json()
        return JSONResponse({"results": await run_in_threadpool(results, asked["query"], asked["first"])})

    app = Starlette(routes=[Route("/search", search, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def main(task: str, name: str, weights: str, *rest: str) -> None:
    """Does the task."""
    model = Model(name, Path(weights))
    if task == "index":
        folder, listed, out = Path(rest[0]), Path(rest[1]), rest[2]
        np.save(out, batches(model.pictures, [folder / name for name in json.loads(listed.read_text())]))
    elif task == "texts":
        np.save(rest[1], batches(model.texts, json.loads(Path(rest[0]).read_text())))
    else:
        embeddings, pictures = np.load(rest[0]), json.loads(Path(rest[1]).read_text())
        serve(model, {"numpy": numpy_search, "faiss": faiss_search}[rest[2]](embeddings), pictures, int(rest[3]))


if __name__ == "__main__":
    main(*sys.argv[1:])
