"""clip-server's encoder on local weights: named in the flow's `py_modules`. Runs in the environment `clip-server`.

clip-server knows its models by a table of names, checksums and picture sizes, and looks for the files in a cache
folder under HOME. Two more entries in its tables let it find ours; everything else is clip-server's own. The weights'
folder is in CLIP_SERVER_WEIGHTS, the model's name in CLIP_SERVER_MODEL; HOME/.cache/clip/model.pt must be the weights.
"""

from __future__ import annotations

import os
from pathlib import Path

import open_clip

NAME = os.environ["CLIP_SERVER_MODEL"]
open_clip.add_model_config(Path(os.environ["CLIP_SERVER_WEIGHTS"]))  # before clip_server copies open_clip's table

from clip_server.model import pretrained_models  # type: ignore[import-not-found]  # noqa: E402 - see above

pretrained_models._OPENCLIP_MODELS[f"{NAME}::local"] = ("model.pt", "")  # noqa: SLF001 - there is no other way in
pretrained_models._VISUAL_MODEL_IMAGE_SIZE[NAME] = open_clip.get_model_config(NAME)["vision_cfg"]["image_size"]  # noqa: SLF001 - the same

from clip_server.executors.clip_torch import CLIPEncoder  # type: ignore[import-not-found]  # noqa: E402, F401 - jina finds it here by its name
