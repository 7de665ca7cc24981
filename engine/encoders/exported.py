"""A model as files that need no PyTorch: the graphs of its two towers, its tokenizer, and what is known of it.

    FOLDER/model.json       which model, which weights, how pictures and texts are prepared
    FOLDER/tokenizer.json   its tokenizer, if that is CLIP's own
    FOLDER/text.xml, .bin   the text tower: what `TextTower.passes` makes to unit vectors (n, d); weights in float16
    FOLDER/image.xml, .bin  the image tower: pixels (n, h, w, 3), bytes, to unit vectors (n, d); weights in float16
    FOLDER/*-int8.xml, .bin the same with weights of 8 bits, a scale for each row
    FOLDER/choice.json      which precision and threads were measured to be best, for each processor seen

A folder is complete or not there: it is written beside its place and moved into it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from platformdirs import user_cache_path

from engine.encoders.texts import TextTower
from engine.errors import ModelUnavailable
from engine.fingerprint import fingerprint
from engine.ports import ModelInfo
from engine.preprocess import Preprocessing
from engine.settings import Settings

FORMAT: Final = 4
"""Raised when the files change their form or the graphs their inputs; older folders are made anew."""

SHIPPED: Final = Path(sys.prefix) / "share" / "sightline" / "models"
"""Where models lie that an installation brings along, exported, in folders of their names: container images do."""

_DESCRIPTION: Final = "model.json"
_PACKAGE: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """What `model.json` says. `weights` is the file it was made of, and `recipe` what its fingerprint covers beside."""

    folder: Path
    info: ModelInfo
    preprocessing: Preprocessing
    text: TextTower
    weights: Path
    recipe: Mapping[str, Any]

    @property
    def tokenizer(self) -> Path:
        """Where the tokenizer is, if it is CLIP's own."""
        return self.folder / "tokenizer.json"

    def graph(self, tower: str, *, int8: bool) -> Path:
        """Where the graph of "text" or "image" is, with weights in float16 or in 8 bits."""
        return self.folder / f"{tower}{'-int8' if int8 else ''}.xml"

    def is_current(self) -> bool:
        """Whether its weights are still what it was made of; those that are not on this machine can't have changed."""
        if not self.weights.is_file():
            return True
        return fingerprint(self.info.name, self.weights, self.recipe) == self.info.fingerprint

    def write_description(self) -> None:
        """Writes `model.json`. Sightline's own weights are named from its package on: elsewhere that is elsewhere."""
        own = self.weights.is_relative_to(_PACKAGE)
        description = {
            "format": FORMAT,
            "info": asdict(self.info),
            "preprocessing": asdict(self.preprocessing),
            "text": asdict(self.text),
            "weights": str(self.weights.relative_to(_PACKAGE) if own else self.weights),
            "recipe": self.recipe,
        }
        (self.folder / _DESCRIPTION).write_text(json.dumps(description, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ExportedModel | None:
        """The model in a folder; None if there is none, or one of another format or in pieces."""
        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            if description["format"] != FORMAT:
                return None
            preprocessing = description["preprocessing"]
            for name in ("size", "mean", "std"):
                preprocessing[name] = tuple(preprocessing[name])
            return cls(
                folder=folder,
                info=ModelInfo(**description["info"]),
                preprocessing=Preprocessing(**preprocessing),
                text=TextTower(**description["text"]),
                weights=_PACKAGE / description["weights"],
                recipe=description["recipe"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def exports_folder(settings: Settings) -> Path:
    """The folder of all exported models."""
    return settings.clip_exports or user_cache_path("sightline") / "encoders"


def place_of(settings: Settings) -> Path:
    """The folder where the settings' model is kept, or will be when it has been exported."""
    pretrained = settings.clip_pretrained
    if pretrained and Path(pretrained).exists():
        pretrained = str(Path(pretrained).resolve())
    key = hashlib.sha256(json.dumps([settings.clip_model, pretrained]).encode()).hexdigest()[:12]
    return exports_folder(settings) / f"{settings.clip_model}-{key}"


def find(settings: Settings) -> ExportedModel | None:
    """The exported model that the settings name, None when it has to be made (again).

    CLIP_PRETRAINED may be the folder of an exported model itself. If it is empty, a model that the installation brought
    along does as well. Raises `ModelUnavailable` when that folder holds another model, or none.
    """
    named = Path(settings.clip_pretrained)
    if settings.clip_pretrained and named.is_dir():
        exported = ExportedModel.read(named)
        if exported is None:
            raise ModelUnavailable(
                f"{named} holds no model exported by this version. Make one with `sightline models export --out "
                f"{named}` where PyTorch is installed."
            )
        if exported.info.name != settings.clip_model:
            raise ModelUnavailable(
                f"{named} holds {exported.info.name}, but CLIP_MODEL is {settings.clip_model}. "
                f"Set CLIP_MODEL={exported.info.name}."
            )
        if named.is_relative_to(exports_folder(settings)):
            return exported  # there it is found by its fingerprint; elsewhere only by its path
        return replace(exported, info=replace(exported.info, pretrained=settings.clip_pretrained))
    places = [place_of(settings)] if settings.clip_pretrained else [place_of(settings), SHIPPED / settings.clip_model]
    found = map(ExportedModel.read, places)
    return next((one for one in found if one is not None and one.is_current()), None)


def find_fingerprint(settings: Settings, fingerprint: str) -> ExportedModel | None:
    """The model of a fingerprint in CLIP_EXPORTS, under whatever name its folder was copied there."""
    folders = sorted(file.parent for file in exports_folder(settings).glob(f"[!.]*/{_DESCRIPTION}"))  # complete ones
    found = map(ExportedModel.read, folders)
    return next((one for one in found if one is not None and one.info.fingerprint == fingerprint), None)
