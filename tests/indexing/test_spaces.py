"""The space of a model: where images lie that its texts can find."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from engine.errors import BadUserInput
from engine.ports import Vectors
from indexing.scenes.vocabulary import CATEGORIES
from indexing.spaces import Space, about_clusters, model_space, searches
from tests.support.encoders import WordEncoder


class AlikeEncoder(WordEncoder):
    """All of its texts have cosines of `alike` with each other or more, as those of random weights have."""

    def __init__(self, alike: float) -> None:
        super().__init__(dimension=256)
        self._alike = alike

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Words as before, beside a direction that all texts share."""
        common = np.zeros(256, dtype=np.float32)
        common[0] = 1
        different = super().encode_texts(texts)
        different[:, 0] = 0
        different /= np.linalg.norm(different, axis=1, keepdims=True)
        return (np.sqrt(self._alike) * common + np.sqrt(1 - self._alike) * different).astype(np.float32)


def drawn(space: Space, count: int = 4_000) -> tuple[Vectors, np.ndarray]:
    """Vectors of a space, and their clusters."""
    return space.draw(np.random.default_rng(1), count)


def test_clusters_show_different_things_of_every_category():
    """1,000 captions, no text and no meaning twice, and each category has some."""
    about = about_clusters(1)
    assert len({caption.text for caption in about}) == len({caption.meaning for caption in about}) == 1_000
    assert {caption.category for caption in about} == set(CATEGORIES)
    assert about == about_clusters(1)
    assert about != about_clusters(2)


def test_images_of_a_model_lie_as_simulated_ones_do():
    """Unit norm; cosines of 0.5 if unrelated and 0.75 in a cluster, whatever the model's own texts are like."""
    for alike in (0.3, 0.99):
        vectors, cluster = drawn(model_space(AlikeEncoder(alike), 1))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        cosines = vectors @ vectors.T
        together = cluster[:, None] == cluster
        np.fill_diagonal(together, val=False)
        assert 0.45 < cosines[~together].mean() < 0.6
        assert 0.7 < cosines[together].mean() < 0.8


def test_images_lie_apart_from_the_texts():
    """The means of images and of texts have a cosine of 0.25, and the gap adds the same to all scores of a text."""
    encoder = AlikeEncoder(0.6)
    vectors, _ = drawn(model_space(encoder, 1))
    texts = encoder.encode_texts([caption.text for caption in about_clusters(1)])
    mean, text_mean = vectors.mean(axis=0), texts.mean(axis=0)
    assert mean @ text_mean / np.linalg.norm(mean) / np.linalg.norm(text_mean) == pytest.approx(0.25, abs=0.02)
    assert np.ptp(vectors @ text_mean) < 1e-5


@pytest.mark.parametrize("alike", [0.3, 0.99])
def test_a_caption_finds_its_images_however_alike_texts_are(alike: float):
    """Compared with all images, a caption's own come first, also with a model that hardly tells texts apart."""
    encoder = AlikeEncoder(alike)
    vectors, cluster = drawn(model_space(encoder, 1))
    texts = encoder.encode_texts([caption.text for caption in about_clusters(1)])
    there = np.unique(cluster)
    best = cluster[(texts[there] @ vectors.T).argmax(axis=1)]
    assert (best == there).mean() > 0.9


def test_a_space_is_the_same_for_the_same_seed_and_model():
    """Drawn twice from the same, and differently from another seed."""
    encoder = WordEncoder()
    first, again, other = (drawn(model_space(encoder, seed), 100)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_small_dimensions_have_a_space():
    """A model of a few dimensions leaves fewer latent ones, and its images are unit vectors still."""
    vectors, _ = drawn(model_space(WordEncoder(dimension=8), 1), 100)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_model_that_tells_nothing_apart_is_refused():
    """Where all texts are equal, no text could find anything: that is said, with what to do."""
    with pytest.raises(BadUserInput, match="CLIP_MODEL"):
        model_space(AlikeEncoder(1.0), 1)


def test_seeds_out_of_range_are_named():
    """A seed below 0 is refused by the space and by the searches."""
    with pytest.raises(BadUserInput, match="seed -1"):
        model_space(WordEncoder(), -1)
    with pytest.raises(BadUserInput, match="seed -1"):
        searches(1, -1)
