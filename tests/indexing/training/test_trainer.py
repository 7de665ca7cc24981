"""The training loop: stopped and started as one likes, it makes the same model, and the engine can load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine import models
from engine.encoders.openclip import OpenClipEncoder
from indexing.scenes.render import render
from indexing.scenes.scene import sample
from indexing.training import trainer
from indexing.training.tower import CONFIG
from indexing.training.trainer import Plan, Trainer
from indexing.training.words import UNKNOWN, Words

PLAN = Plan(scenes=64, steps=2, finish=2, batch=16, seed=2)
BEGINNINGS = {"first": PLAN, "second": PLAN, "other": replace(PLAN, seed=3)}
TEXTS = ["a red boat at night", "two dogs", "a cat left of a house", "three striped zeppelins in the snow"]

Begin = Callable[..., Trainer]


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, words: Words) -> Begin:
    """Begins or continues a training in a folder; all of them see the same pictures, drawn once."""
    cache = tmp_path_factory.mktemp("pictures")

    def start(folder: Path, plan: Plan = PLAN) -> Trainer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "Words", lambda _context_length: words)  # a second each, and always the same
            return Trainer(plan, folder, cache, lambda _line: None)

    return start


@pytest.fixture(scope="module")
def trained(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """The plan carried out in one go."""
    training = begin(tmp_path_factory.mktemp("trained"))
    assert training.run()
    return training


def state(training: Trainer) -> dict[str, Tensor]:
    """Everything that the next step depends on: weights, statistics, averages, the heads, the optimizer's moments."""
    tensors = {f"model.{name}": value for name, value in training.model.state_dict().items()}
    tensors |= {f"heads.{name}": value for name, value in training._heads.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in training._average.items()}
    for name, parameter in training._parameters.items():
        tensors |= {f"{key} of {name}": value for key, value in training._optimizer.state[parameter].items()}
    return tensors


def test_interrupted_training_equals_uninterrupted(begin: Begin, trained: Trainer, tmp_path: Path):
    """Stopped after every step and continued from the checkpoint, it ends where the uninterrupted one ended.

    Both parts of the plan are stopped, and the border between them.
    """
    for step in range(1, PLAN.all_steps + 1):
        training = begin(tmp_path)
        assert training.step == step - 1
        assert training.run(minutes=0) is (step == PLAN.all_steps)
    expected, found = state(trained), state(begin(tmp_path))
    assert set(found) == set(expected)
    assert [name for name in expected if name.startswith("average.") and name.endswith("running_var")]
    assert [name for name in expected if name.startswith("exp_avg_sq of heads.")]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=lambda said, at=name: f"{at}: {said}")


def test_training_moves_the_weights(begin: Begin, trained: Trainer, tmp_path: Path):
    """After the plan every weight is another one and finite, and the unknown word is still nothing."""
    fresh, done = begin(tmp_path), trained
    for name, parameter in fresh._parameters.items():
        assert done._parameters[name].isfinite().all(), name
        assert not torch.equal(parameter, done._parameters[name]), name
    assert not done.model.token_embedding.weight[UNKNOWN].any()
    assert not done._average["token_embedding.weight"][UNKNOWN].any()


def test_same_seed_begins_alike(begin: Begin, tmp_path: Path):
    """A seed decides the first weights; another one gives others."""
    first, second, other = (begin(tmp_path / name, plan) for name, plan in BEGINNINGS.items())
    weights = [training.model.text_projection for training in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_finished_training_is_done(begin: Begin, trained: Trainer):
    """Run again, a finished training says so and changes nothing."""
    again = begin(trained._folder)
    assert again.step == PLAN.all_steps
    assert again.run()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


@pytest.mark.parametrize("other", [replace(PLAN, seed=3), replace(PLAN, finish=8), replace(PLAN, rate=1e-3)])
def test_another_plan_is_refused(begin: Begin, trained: Trainer, other: Plan):
    """A folder with the checkpoint of another plan is not continued, and the message says what to do."""
    with pytest.raises(ValueError, match=r"belongs to another plan .*choose another folder with --out"):
        begin(trained._folder, other)


def test_learning_rate_falls_in_both_parts():
    """It rises over 200 steps, falls to a hundredth, and falls so again from a third of the peak in the finish."""
    plan = Plan(steps=1_000, finish=100, rate=3.0)
    assert plan.rate_at(0) < 0.02
    assert plan.rate_at(100) < plan.rate_at(199) > plan.rate_at(600) > plan.rate_at(999)
    assert plan.rate_at(999) == pytest.approx(0.03, abs=0.001)
    assert plan.rate_at(1_000) == pytest.approx(1.0)
    assert plan.rate_at(1_099) == pytest.approx(0.01, abs=0.001)


def test_checkpoint_leaves_no_drafts(trained: Trainer):
    """There is one checkpoint, and nothing half written beside it."""
    assert [path.name for path in trained._folder.iterdir()] == ["checkpoint.safetensors"]


def test_exported_model_is_the_averaged_one(trained: Trainer, tmp_path: Path):
    """The engine loads what is exported, and its vectors are those of the averaged weights, of words and pictures."""
    trained.export(tmp_path / "weights" / "tiny")
    models.compact.verify(tmp_path / "weights" / "tiny" / "model.safetensors")
    encoder = OpenClipEncoder(models.load("tiny", "", "cpu", weights=tmp_path / "weights"), "cpu")
    scenes = [sample(seed) for seed in range(3)]
    pixels = [encoder.preprocess(Image.fromarray(render(scene, 4 * trainer.IMAGE_PX))) for scene in scenes]
    with trained._averaged():
        said, seen = trained._say_vectors(TEXTS), trained._see(scenes)
    assert encoder.model.dimension == CONFIG["embed_dim"]
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), said, atol=5e-4)
    np.testing.assert_allclose(encoder.encode_images(np.stack(pixels)), seen, atol=5e-4)
    for vectors in (said, seen):  # hardly trained, they differ little, but by far more than they may here
        assert np.abs(vectors[0] - vectors[1]).max() > 5e-3


def test_judging_leaves_the_training_as_it_was(begin: Begin, tmp_path: Path):
    """Between two steps the averaged weights can be judged, and the weights in training are untouched."""
    training = begin(tmp_path)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    quality = training.judge(200)
    assert 0 <= quality.recall_at_1 <= quality.recall_at_10 <= 1
    assert training.model.training
    for name, value in training.model.state_dict().items():
        assert torch.equal(before[name], value), name
