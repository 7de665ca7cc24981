"""The training loop: seeded, resumable, with progress, on CPU or CUDA.

A checkpoint holds everything that the next step depends on (weights, their running average, the optimizer, the step),
so an interrupted training that is started again ends at the same weights as one that was not, up to the order of
floating-point sums.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from engine import compact
from engine.ports import Vectors
from indexing.evaluation import Quality, evaluate
from indexing.scenes.render import render
from indexing.scenes.scene import Scene, sample
from indexing.training.lessons import IMAGE_PX, Lesson, Lessons
from indexing.training.loss import contents, contrast, likeness
from indexing.training.pool import pictures
from indexing.training.tower import CONFIG, Heads, build, text_features
from indexing.training.words import UNKNOWN, Words

_AVERAGE: Final = (0.998, 0.99)
"""Decay of the running average of the weights, which is what is shipped: slow, then quick enough for the finish."""

EVALUATION_SEED: Final = 10_000_000
"""First seed of the scenes that progress is judged on: none of training's, none of the shipped figures'."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train: how many scenes, how long, how fast. `batch` in pictures, `rate` the peak learning rate.

    After `steps` come `finish` steps that also teach likeness, at a third of the rate: begun with it, the model would
    spend its first hour on what the others teach anyway.
    """

    scenes: int = 100_000
    steps: int = 2_300
    finish: int = 400
    batch: int = 192
    rate: float = 1.5e-3
    seed: int = 0

    @property
    def all_steps(self) -> int:
        """Both parts."""
        return self.steps + self.finish

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: warmed up over the first 200, then along a cosine for each of the two parts."""
        finishing = step >= self.steps
        share = (step - self.steps) / self.finish if finishing else step / self.steps
        peak = self.rate / 3 if finishing else self.rate * min(1.0, (step + 1) / 200)
        return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class Trainer:
    """One training, from a plan and a folder: the folder's checkpoint is continued where there is one."""

    def __init__(self, plan: Plan, folder: Path, cache: Path, say: Callable[[str], None]) -> None:
        self.plan, self._folder, self._say = plan, folder, say
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(plan.seed)
        self._words = Words(CONFIG["text_cfg"]["context_length"])
        self.model = build(self._words.size).to(self.device, memory_format=torch.channels_last)
        self._heads = Heads(CONFIG["embed_dim"]).to(self.device)
        self._zero_unknown()
        with torch.no_grad():
            self.model.logit_scale.fill_(math.log(20))
        self._average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self._parameters = {
            **{f"model.{name}": p for name, p in self.model.named_parameters()},
            **{f"heads.{name}": p for name, p in self._heads.named_parameters()},
        }
        decayed = [p for p in self._parameters.values() if p.ndim > 1]
        plain = [p for p in self._parameters.values() if p.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            lr=plan.rate,
            betas=(0.9, 0.98),
        )
        self.step = 0
        self._restore()
        self._pictures = pictures(
            plan.scenes, cache, os.cpu_count() or 1, lambda drawn: say(f"drawn {drawn:,} of {plan.scenes:,} scenes")
        )

    # ------------------------------------------------------------ the loop

    def run(self, minutes: float | None = None) -> bool:
        """Trains to the plan's end, or for so many minutes; true when the plan is done.

        Every 200 steps the checkpoint is written, and every 1,000 the averaged weights are judged on unseen scenes.
        """
        lessons = Lessons(self._pictures, self._words, self.plan.batch, self.plan.all_steps, self.plan.seed)
        loader = DataLoader(
            lessons, batch_size=None, sampler=range(self.step, self.plan.all_steps), num_workers=1, prefetch_factor=4
        )
        self.model.train()
        started, begun = time.monotonic(), self.step
        for lesson in loader:
            loss = self._teach(lesson)
            self.step += 1
            if self.step % 50 == 0:
                each = (time.monotonic() - started) / (self.step - begun)
                left = each * (self.plan.all_steps - self.step) / 60
                self._say(
                    f"step {self.step:,} of {self.plan.all_steps:,}  loss {loss:.3f}  "
                    f"{self.plan.batch / each:.0f} pictures/s  {left:.0f} min left"
                )
            if self.step % 200 == 0:
                self._save()
            if self.step % 1_000 == 0:
                self._say(json.dumps({name: round(value, 4) for name, value in asdict(self.judge()).items()}))
            if minutes is not None and time.monotonic() - started > minutes * 60:
                break
        self._save()
        return self.step >= self.plan.all_steps

    def _teach(self, lesson: Lesson) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        on = {name: torch.from_numpy(value).to(self.device) for name, value in asdict(lesson).items()}
        shown = _normalized(on["pictures"])
        # A lamp's shade of light: every picture a little brighter or darker, and of another contrast.
        light = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.step)
        gain = torch.empty(len(shown), 1, 1, 1).uniform_(0.88, 1.12, generator=light).to(self.device)
        shift = torch.empty(len(shown), 1, 1, 1).uniform_(-0.15, 0.15, generator=light).to(self.device)
        # Flash attention's backward on CPU is five times slower than plain sums for texts of thirty tokens.
        with torch.autocast(self.device.type, dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            seen = self.model.visual((shown * gain + shift).contiguous(memory_format=torch.channels_last))
            said = torch.cat([text_features(self.model, on["long"]), text_features(self.model, on["short"])])
        seen, said = F.normalize(seen.float(), dim=1), F.normalize(said.float(), dim=1)
        loss = contrast(seen, said, self.model.logit_scale.exp(), on["truth"])
        loss = loss + 0.5 * self._contents_loss(seen, said, on)
        finishing = self.step >= self.plan.steps
        if finishing:
            loss = loss + likeness(seen, on["alike"])
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        self._optimizer.step()
        self._zero_unknown()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self._average[name].lerp_(value, 1 - min(_AVERAGE[finishing], (self.step + 1) / (self.step + 10)))
                else:
                    self._average[name].copy_(value)
        return float(loss.detach())

    def _contents_loss(self, seen: Tensor, said: Tensor, on: Mapping[str, Tensor]) -> Tensor:
        scenes, queries = on["scenes"], on["queries"]
        everywhere = torch.ones(len(scenes), dtype=torch.bool, device=self.device)
        pictures_loss = contents(self._heads(seen), scenes[:, :6].view(-1, 2, 3), scenes[:, 6:], everywhere)
        mentions = queries[:, :8].view(-1, 2, 4)[:, :, (0, 2, 3)]
        texts_loss = contents(self._heads(said), mentions, queries[:, 10:], queries[:, 9].bool())
        return pictures_loss + 0.5 * texts_loss

    def _zero_unknown(self) -> None:
        with torch.no_grad():
            self.model.token_embedding.weight[UNKNOWN] = 0

    # ------------------------------------------------------------ what comes of it

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights, in evaluation mode."""
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self._average)
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.load_state_dict(kept)
            self.model.train()

    def judge(self, count: int = 1_000) -> Quality:
        """The averaged weights' quality on scenes that were never trained on."""
        scenes = [sample(EVALUATION_SEED + number) for number in range(count)]
        with self._averaged():
            vectors = np.concatenate([self._see(scenes[at : at + 200]) for at in range(0, count, 200)])
            return evaluate(scenes, vectors, self._say_vectors)

    def _see(self, scenes: Sequence[Scene]) -> Vectors:
        drawn = [Image.fromarray(render(scene, 4 * IMAGE_PX)) for scene in scenes]
        small = np.stack([np.asarray(d.resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)) for d in drawn])
        shown = _normalized(torch.from_numpy(small).permute(0, 3, 1, 2).to(self.device))
        return _unit(self.model.visual(shown.contiguous(memory_format=torch.channels_last)))

    def _say_vectors(self, texts: Sequence[str]) -> Vectors:
        tokens = torch.from_numpy(self._words.encode(list(texts))).to(self.device)
        return _unit(text_features(self.model, tokens))

    def export(self, folder: Path) -> None:
        """Writes the averaged weights as the shipped model: config.json, model.safetensors and its sha256."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.cpu() for name, value in self._average.items() if name != "attn_mask"}
        small = state["token_embedding.weight"]
        full = torch.zeros(CONFIG["text_cfg"]["vocab_size"], small.shape[1])
        full[self._words.token_ids] = small[1:]
        (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        compact.save_state(
            folder / "model.safetensors", state | {"token_embedding.weight": full}, self._words.token_ids
        )

    # ------------------------------------------------------------ checkpoints

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint.safetensors"

    def _save(self) -> None:
        tensors = {f"model.{n}": v for n, v in self.model.state_dict().items()}
        tensors |= {f"heads.{n}": v for n, v in self._heads.state_dict().items()}
        tensors |= {f"average.{n}": v for n, v in self._average.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        self._folder.mkdir(parents=True, exist_ok=True)
        written = self._checkpoint.with_suffix(".new")
        said: dict[str, Any] = {"step": self.step, "plan": asdict(self.plan)}
        save_file({n: v.contiguous().clone() for n, v in tensors.items()}, written, {"training": json.dumps(said)})
        written.replace(self._checkpoint)

    def _restore(self) -> None:
        if not self._checkpoint.exists():
            return
        with safe_open(self._checkpoint, "pt", device=str(self.device)) as file:
            said = json.loads(file.metadata()["training"])
            if said["plan"] != asdict(self.plan):
                msg = (
                    f"{self._checkpoint} belongs to another plan ({said['plan']}). Train with that plan, "
                    "or choose another folder with --out."
                )
                raise ValueError(msg)
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safetensors file is no dict
        self.step = said["step"]
        for part, module in (("model.", self.model), ("heads.", self._heads)):
            module.load_state_dict({n.removeprefix(part): v for n, v in kept.items() if n.startswith(part)})
        self._average = {n.removeprefix("average."): v for n, v in kept.items() if n.startswith("average.")}
        for name, parameter in self._parameters.items():
            prefix = f"optimizer.{name}."
            self._optimizer.state[parameter] = {
                n.removeprefix(prefix): v
                for n, v in kept.items()
                if n.startswith(prefix) and "." not in n[len(prefix) :]
            }


def _normalized(pictures: Tensor) -> Tensor:
    cfg = CONFIG["preprocess_cfg"]
    shown: Tensor = (pictures.float() / 255 - cfg["mean"][0]) / cfg["std"][0]
    return shown


def _unit(features: Tensor) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = F.normalize(features.float(), dim=-1).cpu().numpy()
    return vectors
