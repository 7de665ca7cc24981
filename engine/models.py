"""Which models there are, and how each is brought into memory.

Three kinds: the small model shipped in `engine/weights`, any OpenCLIP architecture with a pretrained tag, and any of
these architectures with a local safetensors file. Weights are never read from a pickle, which can run code. All
failures are `ModelUnavailable` and say how to get the file here, because servers often have no way to the hub.
"""

from __future__ import annotations

import difflib
import json
import textwrap
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME
from open_clip.tokenizer import get_clean_fn
from open_clip.transform import PreprocessCfg
from safetensors import SafetensorError
from torch import nn

from engine import compact
from engine.encoders.texts import ClipTokenizer, LockedTokenizer, Tokenizer
from engine.errors import ModelUnavailable
from engine.fingerprint import fingerprint
from engine.ports import ModelInfo
from engine.preprocess import Preprocessing

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of shipped models: `NAME/config.json` and `NAME/model.safetensors`."""

_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory: `model` in evaluation mode, float32, on its device; `weights` is the file it came from."""

    model: nn.Module
    preprocess: PreprocessCfg
    tokenizer: Tokenizer
    info: ModelInfo
    weights: Path

    @property
    def preprocessing(self) -> Preprocessing:
        """How its pictures are prepared."""
        cfg = self.preprocess
        size = (cfg.size, cfg.size) if isinstance(cfg.size, int) else tuple(cfg.size[-2:])
        fill = int(cfg.fill_color)
        return Preprocessing(size, tuple(cfg.mean), tuple(cfg.std), cfg.interpolation, cfg.resize_mode, fill)


@dataclass(frozen=True, slots=True)
class AvailableModel:
    """A value for CLIP_MODEL with one for CLIP_PRETRAINED; `local` when its weights are on this machine."""

    name: str
    pretrained: str
    local: bool


def list_models(weights: Path = WEIGHTS) -> list[AvailableModel]:
    """Every model that `load` knows by name, shipped ones first. Asks nothing of the network."""
    shipped = [AvailableModel(name, "", (weights / name / "model.safetensors").is_file()) for name in _shipped(weights)]
    tagged = [
        AvailableModel(name, tag, isinstance(try_to_load_from_cache(*_hub_file(name, tag)), str))
        for name, tag in open_clip.list_pretrained()
    ]
    return shipped + tagged


def load(name: str, pretrained: str, device: str, weights: Path = WEIGHTS) -> LoadedModel:
    """Loads a model by its architecture `name`, with a `pretrained` tag, a local safetensors file, or "" if shipped.

    `device` is PyTorch's name for where it goes; `weights` the folder of shipped models. Raises `ModelUnavailable`.
    """
    shipped = name in _shipped(weights)
    if shipped:
        config = json.loads((weights / name / "config.json").read_text(encoding="utf-8"))
    elif name in open_clip.list_models():
        config = open_clip.get_model_config(name)
    else:
        raise _unknown_model(name, weights)
    preprocess = config.pop("preprocess_cfg", {})

    if _is_path(pretrained):
        path = _local_file(name, Path(pretrained).expanduser())
    elif shipped:
        path = _shipped_file(name, pretrained, weights)
    else:
        path = _hub_weights(name, pretrained)
    if not shipped:
        recipe = _recipe(name, path.stem if _is_path(pretrained) else pretrained)
        config["quick_gelu"] = config.get("quick_gelu", False) or recipe.pop("quick_gelu", False)
        preprocess = recipe

    try:
        model = _build(config)
        tokenizer = _tokenizer(name, config, shipped=shipped)
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelUnavailable(
            f"{name} needs a package or tokenizer files that are not here: {error}. Install `transformers`, and run "
            "once with a way to the hub, or choose a model with OpenCLIP's own tokenizer, such as ViT-H-14."
        ) from error
    _fill(model, path, name, config["text_cfg"].get("vocab_size", 49408))
    model.eval().requires_grad_(requires_grad=False).to(device)

    cfg = PreprocessCfg(**{"size": config["vision_cfg"]["image_size"], **preprocess})
    size = cfg.size if isinstance(cfg.size, int) else cfg.size[0]
    info = ModelInfo(
        name=name,
        pretrained=str(path) if _is_path(pretrained) else pretrained,
        dimension=config["embed_dim"],
        image_size=size,
        context_length=config["text_cfg"].get("context_length", 77),
        fingerprint=fingerprint(name, path, asdict(cfg)),
    )
    return LoadedModel(model, cfg, tokenizer, info, path)


# ---------------------------------------------------------------- finding the weights


def _shipped(weights: Path) -> list[str]:
    return sorted(config.parent.name for config in weights.glob("*/config.json"))


def _is_path(pretrained: str) -> bool:
    suffix = Path(pretrained).suffix
    return suffix == ".safetensors" or suffix in _PICKLES or "/" in pretrained or "\\" in pretrained


def _local_file(name: str, path: Path) -> Path:
    if path.suffix in _PICKLES:
        raise ModelUnavailable(
            f"{path} is a pickle, which can run code when it is loaded. Convert it where you trust it: "
            'python -c "import sys, torch; from safetensors.torch import save_file; '
            "state = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
            "save_file({k: v.clone().contiguous() for k, v in state.get('state_dict', state).items()}, sys.argv[2])\" "
            f"{path.name} {path.stem}.safetensors, then set CLIP_PRETRAINED to the new file."
        )
    if path.suffix != ".safetensors" or not path.is_file():
        raise ModelUnavailable(
            f"There is no safetensors file {path}. Set CLIP_PRETRAINED to the weights of {name}: a path, or a tag "
            "that `sightline models` prints."
        )
    return path


def _shipped_file(name: str, pretrained: str, weights: Path) -> Path:
    if pretrained:
        raise ModelUnavailable(
            f"{name} is shipped and has no pretrained tag {pretrained!r}. Leave CLIP_PRETRAINED empty, or set "
            "CLIP_MODEL to the architecture of that tag; `sightline models` prints them."
        )
    path = weights / name / "model.safetensors"
    if not path.is_file():
        raise ModelUnavailable(f"The shipped weights {path} are missing. Restore them with `git checkout`.")
    return path


def _hub_file(name: str, tag: str) -> tuple[str, str]:
    """The hub repository of a tag, and its safetensors file: open_clip's tables name `owner/repository/[pickle]`."""
    repository, _, file = open_clip.get_pretrained_cfg(name, tag)["hf_hub"].rpartition("/")
    return repository, Path(file).with_suffix(".safetensors").name if file else HF_SAFE_WEIGHTS_NAME


def _hub_weights(name: str, tag: str) -> Path:
    """The weights of a tag: from the cache if they are there, so that a server starts without the hub."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not open_clip.get_pretrained_cfg(name, tag):
        known = f"one of {', '.join(tags)}, or " if tags else ""
        wrong = f"has no pretrained tag {tag!r}" if tag else "needs pretrained weights"
        raise ModelUnavailable(f"{name} {wrong}. Set CLIP_PRETRAINED to {known}the path of a safetensors file.")

    repository, file = _hub_file(name, tag)
    by_hand = (
        f"To place it by hand, download {file} of the repository {repository} elsewhere, copy it here as "
        f"{tag}.safetensors, and set CLIP_MODEL={name} and CLIP_PRETRAINED=/path/to/{tag}.safetensors."
    )
    try:
        return Path(hf_hub_download(repository, file, local_files_only=True))
    except LocalEntryNotFoundError:
        pass  # not here yet: ask the hub
    try:
        return Path(hf_hub_download(repository, file))
    except LocalEntryNotFoundError as error:
        raise ModelUnavailable(
            f"The weights of {name} ({tag}) are not on this machine, and the Hugging Face hub does not answer. "
            + by_hand
        ) from error
    except EntryNotFoundError as error:
        raise ModelUnavailable(
            f"{repository} has no {file}, only a pickle, which can run code when it is loaded. Convert it to "
            "safetensors where you trust it, and set CLIP_PRETRAINED to that file."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"Downloading {file} of {repository} failed: {error}. Try again. {by_hand}") from error


def _recipe(name: str, tag: str) -> dict[str, Any]:
    """How the weights were trained: their preprocessing and activation, where open_clip's tables are sure of it.

    A file that is named like a tag counts as that tag; of another file what all tags of the architecture share.
    Left out, wrong values would only show in worse answers: SigLIP, say, normalizes unlike CLIP.
    """
    tags = [tag] if open_clip.get_pretrained_cfg(name, tag) else open_clip.list_pretrained_tags_by_model(name)
    tables = [open_clip.get_pretrained_cfg(name, known) for known in tags]
    keys = ("mean", "std", "interpolation", "resize_mode", "quick_gelu")
    values = {key: [table.get(key) for table in tables] for key in keys}
    return {
        key: found[0] for key, found in values.items() if found and found[0] and found.count(found[0]) == len(found)
    }


def _unknown_model(name: str, weights: Path) -> ModelUnavailable:
    names = {known.lower(): known for known in (*_shipped(weights), *open_clip.list_models())}
    close = [names[match] for match in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)]
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return ModelUnavailable(f"There is no model {name!r}.{meant} `sightline models` prints all names for CLIP_MODEL.")


# ---------------------------------------------------------------- making the model


def _build(config: dict[str, Any]) -> nn.Module:
    """The architecture with random weights, built without open_clip's registry, where a shipped name has no place."""
    config = deepcopy(config)
    text = config["text_cfg"]
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False  # the weights come in one file for both towers
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if "multimodal_cfg" in config:
        return cast("nn.Module", open_clip.CoCa(**config))
    return cast("nn.Module", (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config))


def _tokenizer(name: str, config: dict[str, Any], *, shipped: bool) -> Tokenizer:
    text = config["text_cfg"]
    length = text.get("context_length", 77)
    if shipped:
        return tokenizer_of(open_clip.SimpleTokenizer(context_length=length, **text.get("tokenizer_kwargs", {})))
    return named_tokenizer(name)


def named_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of an OpenCLIP architecture. It may come from the hub: raises what its client does."""
    return tokenizer_of(open_clip.get_tokenizer(name))


def tokenizer_of(theirs: Any) -> Tokenizer:
    """The same tokenizer in our terms: CLIP's own without PyTorch, any other behind a lock."""
    if type(theirs) is not open_clip.SimpleTokenizer or theirs.reduction_fn is not None:
        return LockedTokenizer(theirs, theirs.context_length)
    special = [theirs.decoder[number] for number in theirs.all_special_ids]
    return ClipTokenizer(list(theirs.bpe_ranks), special, theirs.context_length, _CLEANERS[theirs.clean_fn])


_CLEANERS = {get_clean_fn(name): name for name in ("lower", "whitespace", "canonicalize")}


def _fill(model: nn.Module, path: Path, name: str, vocabulary_size: int) -> None:
    try:
        if compact.is_compact(path):
            model.load_state_dict(compact.load_state(path, vocabulary_size))
        else:
            compact.verify(path)
            open_clip.load_checkpoint(model, str(path))  # knows the layouts of older checkpoints too
    except (RuntimeError, KeyError, AttributeError, SafetensorError) as error:
        reason = textwrap.shorten(str(error), 400, placeholder=" …")
        raise ModelUnavailable(
            f"The weights in {path} do not fit the model {name}. Set CLIP_MODEL to the architecture that they were "
            f"trained as; `sightline models` prints all names. ({reason})"
        ) from error
