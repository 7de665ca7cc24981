"""clip-retrieval's back end on local weights. Runs in the environment `clip-retrieval`.

    python clip_retrieval_back.py prepare EMBEDDINGS LIST FOLDER            the layout that `clip-retrieval index` reads
    python clip_retrieval_back.py run MODEL WEIGHTS COMMAND [OPTION=VALUE]… a command of clip-retrieval

`run` tells open_clip of the architecture, then calls clip-retrieval's own entry point with `--clip_model` set to it.
One thing differs from typing the command: the back end is served by waitress on 127.0.0.1, not by Flask's development
server on all addresses, which can't keep a connection.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

FOLDERS = ("img_emb", "metadata")


def prepare(embeddings: Path, listed: Path, folder: Path) -> None:
    """`img_emb/*.npy` and `metadata/*.parquet`, as `clip-retrieval inference` writes them, with a `url` a picture."""
    import pandas as pd  # type: ignore[import-untyped]  # noqa: PLC0415 - only this task needs it

    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "img_emb" / "img_emb_0.npy").write_bytes(embeddings.read_bytes())
    pictures = pd.DataFrame({"url": json.loads(listed.read_text(encoding="utf-8"))})
    pictures.to_parquet(folder / "metadata" / "metadata_0.parquet")


def run(model: str, weights: Path, *command: str) -> None:
    """`clip-retrieval COMMAND`, on the weights."""
    import open_clip  # noqa: PLC0415 - the same
    import waitress  # type: ignore[import-untyped]  # noqa: PLC0415 - the same
    from clip_retrieval.cli import main as cli  # type: ignore[import-not-found]  # noqa: PLC0415 - the same

    flask: Any = importlib.import_module("flask")  # after the choice of task
    open_clip.add_model_config(weights / "configs")

    def serve(app: Any, *_args: Any, **options: Any) -> None:
        waitress.serve(app, host="127.0.0.1", port=options["port"])

    flask.Flask.run = serve
    local = f"--clip_model=open_clip:{model}/{weights / 'model.safetensors'}"
    sys.argv = ["clip-retrieval", *command, *([] if command[0] == "index" else [local])]
    cli()


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "prepare":
        prepare(*(Path(path) for path in rest))
    else:
        run(rest[0], Path(rest[1]), *rest[2:])
