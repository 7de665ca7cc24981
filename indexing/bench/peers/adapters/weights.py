"""The same weights in every form that a peer reads. Runs in the environment `open-clip`.

    python weights.py MODEL SOURCE OUT

SOURCE is a safetensors file: with a `config.json` beside it a model shipped with Sightline, else random weights of the
OpenCLIP architecture MODEL. OUT holds afterwards

    configs/MODEL.json    the architecture, for `open_clip.add_model_config`
    preprocess.json       arguments for pictures, for `open_clip.create_model_and_transforms`
    model.safetensors     float32, all rows of the token table
    padded/               the same with room for 77 tokens, as a pickle: clip-server pads every text to 77. The end
                          token doesn't see what comes after it, so the embeddings are those of the original
    transformers/         a Hugging Face `CLIPModel` and its processor. It knows only vision transformers: a model of
                          another kind gets a tiny random one, which nothing here asks for an embedding
    done.json             written last: whether `transformers/` can encode pictures
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

PADDED = 77
STAND_IN = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 1, "image_size": 32, "patch_size": 16}
HEAD_WIDTH = 64  # of open_clip's vision transformers, unless the configuration says otherwise


def read(model: str, source: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Architecture, preprocessing and float32 state of a model."""
    shipped = source.with_name("config.json")
    config = json.loads(shipped.read_text()) if shipped.is_file() else open_clip.get_model_config(model)
    preprocess = config.pop("preprocess_cfg", {})
    state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(source).items()}
    if (ids := state.pop("token_ids", None)) is not None:
        rows = state["token_embedding.weight"]
        table = torch.zeros(config["text_cfg"]["vocab_size"], rows.shape[1])
        state["token_embedding.weight"] = table.index_copy_(0, ids.long(), rows)
    keys = {
        "mean": "image_mean",
        "std": "image_std",
        "interpolation": "image_interpolation",
        "resize_mode": "image_resize_mode",
    }
    return config, {argument: preprocess[key] for key, argument in keys.items() if key in preprocess}, state


def write_padded(folder: Path, model: str, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """The same model with a positional table of 77 rows."""
    table = state["positional_embedding"]
    longer = torch.zeros(PADDED, table.shape[1])
    longer[: len(table)] = table
    folder.mkdir(exist_ok=True)
    padded = {**config, "text_cfg": {**config["text_cfg"], "context_length": PADDED}}
    (folder / f"{model}.json").write_text(json.dumps(padded))
    kept = {name: value for name, value in state.items() if name != "attn_mask"}
    torch.save({**kept, "positional_embedding": longer}, folder / "model.pt")


# ---------------------------------------------------------------- Hugging Face's form


def _tower(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    """A stack of transformer blocks under Hugging Face's names."""
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith(f"{ours}.resblocks."):
            continue
        number, _, part = name.removeprefix(f"{ours}.resblocks.").partition(".")
        layer = f"{theirs}.encoder.layers.{number}"
        if part.startswith("attn.in_proj_"):
            for which, piece in zip("qkv", value.chunk(3), strict=True):
                named[f"{layer}.self_attn.{which}_proj.{part.removeprefix('attn.in_proj_')}"] = piece
        elif part.startswith("attn.out_proj."):
            named[f"{layer}.self_attn.{part.removeprefix('attn.')}"] = value
        else:
            module, _, kind = part.rpartition(".")
            named[f"{layer}.{names[module]}.{kind}"] = value
    return named


def _norm(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}


def _stand_in_state(dimension: int) -> dict[str, Tensor]:
    """A vision tower of the right names and shapes, and no use."""
    width, inner = STAND_IN["hidden_size"], STAND_IN["intermediate_size"]
    patches = (STAND_IN["image_size"] // STAND_IN["patch_size"]) ** 2
    block = "visual.transformer.resblocks.0"
    shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (patches + 1, width),
        "visual.conv1.weight": (width, 3, STAND_IN["patch_size"], STAND_IN["patch_size"]),
        "visual.proj": (width, dimension),
        f"{block}.attn.in_proj_weight": (3 * width, width),
        f"{block}.attn.in_proj_bias": (3 * width,),
        f"{block}.attn.out_proj.weight": (width, width),
        f"{block}.attn.out_proj.bias": (width,),
        f"{block}.mlp.c_fc.weight": (inner, width),
        f"{block}.mlp.c_fc.bias": (inner,),
        f"{block}.mlp.c_proj.weight": (width, inner),
        f"{block}.mlp.c_proj.bias": (width,),
    }
    norms = ("visual.ln_pre", "visual.ln_post", f"{block}.ln_1", f"{block}.ln_2")
    shapes |= {f"{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    return {name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}


def _transformers_config(config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """`config.json` of a `CLIPModel`, and whether its vision tower is the real one."""
    text, vision = config["text_cfg"], config["vision_cfg"]
    real = isinstance(vision["layers"], int)
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    shape = STAND_IN
    if real:
        shape = {
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4)),
            "layers": vision["layers"],
            "heads": vision["width"] // vision.get("head_width", HEAD_WIDTH),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config["embed_dim"],
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": text["width"],
            "intermediate_size": text["width"] * 4,
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "projection_dim": config["embed_dim"],
            "hidden_act": activation,
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,
            "pad_token_id": text["vocab_size"] - 1,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": shape["hidden_size"],
            "intermediate_size": shape["intermediate_size"],
            "num_hidden_layers": shape["layers"],
            "num_attention_heads": shape["heads"],
            "image_size": shape["image_size"],
            "patch_size": shape["patch_size"],
            "projection_dim": config["embed_dim"],
            "hidden_act": activation,
        },
    }, real


def _write_processor(folder: Path, context_length: int, image_size: int, preprocess: dict[str, Any]) -> None:
    """Tokenizer and picture settings. The byte pairs are those in open_clip's own file."""
    byte_pairs = tokenizer.SimpleTokenizer()
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    vocabulary = dict(byte_pairs.encoder)  # the last two are the ends, which have other names in open_clip
    for ours, theirs in zip(sorted(vocabulary, key=vocabulary.__getitem__)[-2:], ends.values(), strict=True):
        vocabulary[theirs] = vocabulary.pop(ours)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    with gzip.open(tokenizer.default_bpe(), "rt", encoding="utf-8") as lines:
        merges = lines.read().split("\n")[: len(byte_pairs.bpe_ranks) + 1]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    tokens = {**ends, "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True, **tokens}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    pictures = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "size": {"shortest_edge": image_size},
        "crop_size": {"height": image_size, "width": image_size},
        "image_mean": preprocess.get("image_mean", open_clip.OPENAI_DATASET_MEAN),
        "image_std": preprocess.get("image_std", open_clip.OPENAI_DATASET_STD),
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))


def write_transformers(
    folder: Path, config: dict[str, Any], preprocess: dict[str, Any], state: dict[str, Tensor]
) -> bool:
    """Everything that `AutoModel` and `AutoProcessor` read; whether it can encode pictures."""
    folder.mkdir(exist_ok=True)
    described, real = _transformers_config(config)
    vision = state if real else _stand_in_state(config["embed_dim"])
    named = {
        "logit_scale": state["logit_scale"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        **_tower(state, "transformer", "text_model"),
        **_norm(state, "ln_final", "text_model.final_layer_norm"),
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": vision["visual.class_embedding"],
        "vision_model.embeddings.position_embedding.weight": vision["visual.positional_embedding"],
        "vision_model.embeddings.patch_embedding.weight": vision["visual.conv1.weight"],
        **_norm(vision, "visual.ln_pre", "vision_model.pre_layrnorm"),
        **_tower(vision, "visual.transformer", "vision_model"),
        **_norm(vision, "visual.ln_post", "vision_model.post_layernorm"),
        "visual_projection.weight": vision["visual.proj"].T,
    }
    save_file({k: v.clone().contiguous() for k, v in named.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(described))
    image_size = described["vision_config"]["image_size"]
    _write_processor(folder, config["text_cfg"]["context_length"], image_size, preprocess)
    return real


def main(model: str, source: Path, out: Path) -> None:
    """Writes all forms."""
    config, preprocess, state = read(model, source)
    (out / "configs").mkdir(parents=True, exist_ok=True)
    (out / "configs" / f"{model}.json").write_text(json.dumps(config))
    (out / "preprocess.json").write_text(json.dumps(preprocess))
    save_file(state, out / "model.safetensors")
    write_padded(out / "padded", model, config, state)
    real = write_transformers(out / "transformers", config, preprocess, state)
    (out / "done.json").write_text(json.dumps({"encodes_pictures": real}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
