"""Where simulated embeddings lie: spread as those of a CLIP model are, in a made-up space or in a real model's.

Uniform random vectors would be worse than useless to try an index with: all are equally far from each other, and no
graph can find its way among them. Embeddings of photographs lie in a narrow cone, in clusters of very unequal size, on
a surface of a few dozen dimensions; text embeddings lie in another cone beside it. Here a vector is, before it is
scaled to unit norm,

    image = mean  + (category + cluster + detail) P + noise
    text  = mean' + (category + cluster + detail) P + noise

where P embeds a latent space of 48 dimensions orthonormally, and each term has a share of the squared norm:

    share    mean  category  cluster  detail  noise
    image    0.50      0.08     0.17    0.20   0.05
    text     0.50      0.06     0.12    0.12   0.20

- mean: two unrelated pictures have a cosine of 0.5, about what Liang et al. measured on CLIP ("Mind the Gap", 2022).
  The two means have a cosine of 0.25, so a text scores 0.1 on any picture and 0.3 on one that fits, as CLIP's do.
- cluster: 1,000 clusters, dealt to the 8 categories in turn, with sizes like 1 / (rank + 10): the largest has 2 % of
  all pictures, the smallest 0.02 %. Members have a cosine of about 0.75 with each other.
- detail: Gaussian, wider in some clusters than in others (log-normal, sigma 0.3). The variance of latent dimension i
  goes like i^-0.5, because a model's directions are not used equally; that leaves some 30 that count.
- noise: isotropic in all dimensions, so that no projection or quantization is free. It is larger for texts, which leave
  much of a picture unsaid, and so have neighbours that are farther away and harder to find.

**The space of a real model** has the same shares for images, and no made-up texts: searches in words are its texts.

- Category and cluster together (0.25) are the embedding of a caption by the model, less the mean of all captions. It is
  that difference that tells texts apart, however alike they are (random weights: cosines of 0.99), so it is what the
  captions' clusters differ by, at full length.
- P holds the captions' principal axes, so pictures of a cluster differ in what words can tell.
- The images' mean has a cosine of 0.25 with the texts' mean, and everything else is orthogonal to both. Zhang et al.
  ("Diagnosing and Rectifying Vision Models using Language", 2023) found the gap between images and texts to be nearly
  constant and orthogonal to what either differ by. So the gap adds the same to each score, and ranks nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.errors import BadUserInput
from engine.ports import Encoder, Vectors
from indexing.scenes import captions
from indexing.scenes.scene import Scene, sample
from indexing.scenes.truth import Query
from indexing.scenes.vocabulary import CATEGORIES, KINDS

DIMENSIONS: Final = (8, 65_536)
"""Fewest and most dimensions of a made-up space."""

SEEDS: Final = 2**63
"""Seeds are below this."""

_LATENT: Final = 48
_CLUSTERS: Final = 1_000
_HEAD: Final = 10
_MEANS_COSINE: Final = 0.25
_IMAGE: Final = {"mean": 0.50, "category": 0.08, "cluster": 0.17, "detail": 0.20, "noise": 0.05}
_TEXT: Final = {"mean": 0.50, "category": 0.06, "cluster": 0.12, "detail": 0.12, "noise": 0.20}
_SPACE, POINTS, _QUERIES, _WORDS = range(4)  # independent streams of random numbers of one seed
_SAY: Final = ((captions.short, 0.5), (captions.partial, 0.3), (captions.full, 0.2))


@dataclass(frozen=True, slots=True)
class Caption:
    """What a cluster of a model's space shows: `text` is the caption that its centre is the embedding of."""

    text: str
    meaning: Query
    category: str


@dataclass(frozen=True, slots=True)
class Space:
    """Where the images of a seed lie. `aside` spans what detail and noise stay out of, if there is such a thing."""

    mean: Vectors  # (d,), with the square root of its share as length, as the centres have
    centres: Vectors  # (clusters, d), without the mean
    projection: Vectors  # (latent, d), orthonormal rows
    scales: Vectors  # (latent,), of detail, with its share
    widths: Vectors  # (clusters,)
    sizes: NDArray[np.float64]  # (clusters,), sums to 1
    noise: float
    aside: Vectors | None  # (2, d), orthonormal rows
    categories: Sequence[str]  # of each cluster
    captions: Sequence[Caption] = ()  # of each cluster, in a model's space

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return len(self.mean)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Unit vectors (count, d), and the cluster of each, (count,)."""
        cluster = rng.choice(len(self.sizes), count, p=self.sizes)
        latent = rng.standard_normal((count, len(self.scales)), dtype=np.float32)
        latent *= self.scales * self.widths[cluster, None]
        vectors = rng.standard_normal((count, self.dimension), dtype=np.float32)
        vectors *= np.float32((self.noise / self.dimension) ** 0.5)
        vectors += latent @ self.projection
        vectors += self.centres[cluster]
        if self.aside is not None:
            vectors -= (vectors @ self.aside.T) @ self.aside
            # The mean's share is the same for each vector, so that no text prefers pictures of little else.
            vectors *= np.float32(math.sqrt(1 - _IMAGE["mean"])) / np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors += self.mean
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, cluster


def image_space(dimension: int, seed: int) -> Space:
    """The made-up space of a seed, where images lie. Raises `BadUserInput` when an argument is out of range."""
    return _made_up(dimension, seed)[0]


def draw_texts(count: int, dimension: int, seed: int) -> Vectors:
    """(count, dimension) unit vectors as texts have them, each about one cluster of the made-up space of a seed.

    Frequent things are asked for more often. Raises `BadUserInput` when an argument is out of range.
    """
    _, texts = _made_up(dimension, seed)
    return texts.draw(np.random.default_rng((seed, _QUERIES)), count)[0]


def model_space(encoder: Encoder, seed: int) -> Space:
    """The space of a model, where images of what the seed's captions say lie. Encodes 1,000 captions.

    Raises `BadUserInput` when the seed is out of range, or when the model gives all captions the same embedding.
    """
    _check_seed(seed)
    about = about_clusters(seed)
    texts = encoder.encode_texts([caption.text for caption in about]).astype(np.float64)
    dimension = texts.shape[1]
    text_mean = texts.mean(axis=0)
    differences = texts - text_mean
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or lengths.min() < 1e-6:  # noqa: PLR2004 - a few roundings of a float32
        raise BadUserInput(
            f"{encoder.model.name} gives different captions the same embedding, so no text could find anything. Choose "
            "another model with CLIP_MODEL."
        )
    rng = np.random.default_rng((seed, _SPACE))
    frame, _ = np.linalg.qr(np.stack([text_mean, rng.standard_normal(dimension)], axis=1))
    towards = frame[:, 0] * np.sign(frame[:, 0] @ text_mean)  # QR leaves the sign open
    mean = _MEANS_COSINE * towards + np.sqrt(1 - _MEANS_COSINE**2) * frame[:, 1]
    centres = differences / lengths
    centres -= (centres @ frame) @ frame.T
    latent = min(_LATENT, dimension - 2, len(about) - 1)
    _, _, axes = np.linalg.svd(centres, full_matrices=False)
    widths, sizes = _widths(rng), _sizes()
    return Space(
        mean=_float32(mean * math.sqrt(_IMAGE["mean"])),
        centres=_float32(centres * math.sqrt(_IMAGE["category"] + _IMAGE["cluster"])),
        projection=_float32(axes[:latent]),
        scales=_float32(_scales(latent) * math.sqrt(_IMAGE["detail"])),
        widths=_float32(widths),
        sizes=sizes,
        noise=_IMAGE["noise"],
        aside=_float32(frame.T),
        categories=[caption.category for caption in about],
        captions=about,
    )


@lru_cache(maxsize=2)
def about_clusters(seed: int) -> tuple[Caption, ...]:
    """What the clusters of a model's space are about: captions of drawn scenes, no two with the same meaning."""
    rng = Random(f"captions/{seed}")
    found: dict[Query, Caption] = {}
    texts: set[str] = set()
    while len(found) < _CLUSTERS:
        scene = sample(rng.getrandbits(48))
        say = rng.choices([how for how, _ in _SAY], [share for _, share in _SAY])[0]
        meaning = say(scene, rng)
        text = captions.phrase(meaning, rng)
        if meaning not in found and text not in texts:
            found[meaning] = Caption(text, meaning, _category(scene, meaning))
            texts.add(text)
    return tuple(found.values())


def searches(count: int, seed: int) -> list[str]:
    """Searches in words for the images of a model's space: a caption's meaning, often in other words than its own.

    Frequent things are asked for more often. Raises `BadUserInput` when the seed is out of range.
    """
    _check_seed(seed)
    about = about_clusters(seed)
    rng = np.random.default_rng((seed, _WORDS))
    say = Random(int(rng.integers(2**63)))
    chosen = rng.choice(_CLUSTERS, count, p=_sizes())
    return [captions.phrase(about[cluster].meaning, say) for cluster in chosen.tolist()]


def _category(scene: Scene, meaning: Query) -> str:
    """The category of what is said first, or the scene's where a caption names no thing."""
    what = next((mention.what for mention in meaning.mentions if mention.what), None)
    if what is None:
        return scene.category
    return KINDS[what].category if what in KINDS else what


@lru_cache(maxsize=1)
def _made_up(dimension: int, seed: int) -> tuple[Space, Space]:
    """The space of a seed for images and that for texts: 12 KB a dimension together."""
    low, high = DIMENSIONS
    if not low <= dimension <= high:
        raise BadUserInput(f"Vectors of {dimension} dimensions can't be simulated. Choose from {low} to {high}.")
    _check_seed(seed)
    rng = np.random.default_rng((seed, _SPACE))
    latent = min(_LATENT, dimension - 2)
    frame, _ = np.linalg.qr(rng.standard_normal((dimension, latent + 2)))
    mean, aside, projection = frame.T[0], frame.T[1], frame.T[2:]
    scales, sizes, widths = _scales(latent), _sizes(), _widths(rng)
    of_categories = scales * rng.standard_normal((len(CATEGORIES), latent))
    clusters = scales * rng.standard_normal((_CLUSTERS, latent))
    category = np.arange(_CLUSTERS) % len(CATEGORIES)

    def space(mean: NDArray[np.float64], shares: dict[str, float]) -> Space:
        centres = math.sqrt(shares["category"]) * of_categories[category] + math.sqrt(shares["cluster"]) * clusters
        return Space(
            mean=_float32(math.sqrt(shares["mean"]) * mean),
            centres=_float32(centres @ projection),
            projection=_float32(projection),
            scales=_float32(math.sqrt(shares["detail"]) * scales),
            widths=_float32(widths),
            sizes=sizes,
            noise=shares["noise"],
            aside=None,
            categories=[CATEGORIES[number] for number in category],
        )

    text_mean = _MEANS_COSINE * mean + np.sqrt(1 - _MEANS_COSINE**2) * aside
    return space(mean, _IMAGE), space(text_mean, _TEXT)


# ---------------------------------------------------------------- what both kinds share


def _scales(latent: int) -> NDArray[np.float64]:
    variances = np.arange(1, latent + 1) ** -0.5
    scales: NDArray[np.float64] = np.sqrt(variances / variances.sum())
    return scales


def _sizes() -> NDArray[np.float64]:
    sizes: NDArray[np.float64] = 1 / (np.arange(_CLUSTERS) + _HEAD)
    sizes /= sizes.sum()
    return sizes


def _widths(rng: np.random.Generator) -> NDArray[np.float64]:
    widths: NDArray[np.float64] = rng.lognormal(0, 0.3, _CLUSTERS)
    widths /= np.sqrt((_sizes() * widths**2).sum())
    return widths


def _float32(values: NDArray[np.floating[Any]]) -> Vectors:
    return np.ascontiguousarray(values, dtype=np.float32)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < SEEDS:
        raise BadUserInput(f"The seed {seed} is out of range. Choose one from 0 to {SEEDS - 1}.")
