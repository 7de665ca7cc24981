"""The shipped model meets its targets on 2,000 scenes that it has never seen, through files and a real index."""

from __future__ import annotations

from typing import Any

import pytest

from engine import compact
from engine.encoders.choice import load_encoder
from engine.models import WEIGHTS
from engine.settings import Settings
from indexing.evaluation import evaluate_scenes

pytestmark = pytest.mark.quality

FILE = WEIGHTS / "sightline-small" / "model.safetensors"
SEED = 31
"""Neither the seed of the figures in the model card nor one that progress was ever judged on."""


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """Every measure, on 2,000 scenes of an unseen seed."""
    settings = Settings(_env_file=None, clip_device="cpu")
    return evaluate_scenes(SEED, 2_000, load_encoder(settings), settings)


@pytest.mark.parametrize(
    ("measure", "target"),
    [
        ("recall_at_1", 0.90),
        ("recall_at_10", 0.99),
        ("short_query_precision_at_10", 0.90),
        ("left_right_accuracy", 0.80),
        ("count_accuracy", 0.85),
        ("image_precision_at_10", 0.80),
        ("index_recall_at_10", 0.97),
    ],
)
def test_target_is_met(measured: dict[str, Any], measure: str, target: float):
    """Each measure reaches the target that the project has set itself."""
    assert measured[measure] >= target


def test_short_queries_are_many(measured: dict[str, Any]):
    """The precision of short queries is a mean over 200 or more, some of them on pairs that training never shows."""
    assert measured["short_queries"] >= 200
    assert measured["held_out_queries"] >= 20


def test_weights_are_small_enough_to_ship():
    """The weights take 16 MB of the repository or less."""
    assert FILE.stat().st_size <= 16_000_000


def test_weights_are_whole():
    """The checksum beside the weights is there, and is theirs."""
    assert compact.checksum_path(FILE).is_file()
    compact.verify(FILE)
