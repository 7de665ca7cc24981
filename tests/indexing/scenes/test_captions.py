"""Captions: true of their scenes, wrong where they should be, and in words that say what is meant."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

import open_clip
import pytest

from indexing.scenes import captions
from indexing.scenes.scene import Scene, held_out, sample
from indexing.scenes.truth import Mention, Query, fits, query_table, scene_table
from indexing.scenes.vocabulary import COLORS, KINDS

Say = Callable[[Scene, Random], Query]

FORMS: tuple[Say, ...] = (captions.full, captions.partial, captions.short)
NUMBERS = {
    1: {"one", "single", "1"},
    2: {"two", "2", "pair", "couple"},
    3: {"three", "3", "trio"},
}
SYNONYM_PLURALS = {
    "puppy": "puppies",
    "bunny": "bunnies",
    "pony": "ponies",
    "man": "men",
    "coach": "coaches",
    "fortress": "fortresses",
}
"""Those that do not just take an s."""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """2,000 scenes of the open sampling."""
    return [sample(seed) for seed in range(2_000)]


def fits_own(queries: list[Query], scenes: list[Scene]) -> list[bool]:
    """Whether each query fits the scene of the same number."""
    return [
        bool(fits(query_table([query]), scene_table([scene]))[0, 0])
        for query, scene in zip(queries, scenes, strict=True)
    ]


def words(text: str) -> set[str]:
    """The words of a text."""
    return set(re.findall(r"[a-z0-9]+", text))


def names(kind: str) -> set[str]:
    """All words for a kind: its name and synonyms, one and many."""
    synonyms = KINDS[kind].synonyms
    return {kind, KINDS[kind].plural, *synonyms, *(SYNONYM_PLURALS.get(s, f"{s}s") for s in synonyms)}


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize("say", FORMS)
def test_queries_fit_their_scene(say: Say, scenes: list[Scene]):
    """What is said of a scene is true of it."""
    rng = Random("fit")
    assert all(fits_own([say(scene, rng) for scene in scenes], scenes))


def test_full_says_everything(scenes: list[Scene]):
    """A full caption names every group with its colour, from left to right, and the place, time and weather."""
    rng = Random("full")
    for scene in scenes:
        said = captions.full(scene, rng)
        left_to_right = sorted(scene.groups, key=lambda group: group.position != "left")
        assert [(m.what, m.color) for m in said.mentions] == [(g.kind, g.color) for g in left_to_right]
        assert all(m.count == g.count for m, g in zip(said.mentions, left_to_right, strict=True) if g.count > 1)
        assert said.ordered is (len(scene.groups) == 2)
        assert (said.background, said.time, said.weather) == (scene.background, scene.time, scene.weather)


def test_short_says_little(scenes: list[Scene]):
    """A short search names at most one thing, and at most three facts in all."""
    rng = Random("short")
    for scene in scenes:
        said = captions.short(scene, rng)
        facts = [said.background, said.time, said.weather]
        facts += [fact for m in said.mentions for fact in (m.what, m.color, m.count)]
        assert len(said.mentions) <= 1
        assert 1 <= len([fact for fact in facts if fact]) <= 3


# ---------------------------------------------------------------- near misses


@pytest.mark.parametrize("say", FORMS)
def test_near_miss_is_another_query(say: Say, scenes: list[Scene]):
    """A near miss is never the query itself, and keeps its place, time, weather and the things named."""
    rng = Random("miss")
    for scene in scenes:
        said = say(scene, rng)
        miss = captions.near_miss(said, rng)
        if miss is None:
            continue
        assert miss != said
        assert (miss.background, miss.time, miss.weather) == (said.background, said.time, said.weather)
        assert sorted(str(m.what) for m in miss.mentions) == sorted(str(m.what) for m in said.mentions)


@pytest.mark.parametrize(("say", "most"), [(captions.full, 0), (captions.partial, 0), (captions.short, 0.01)])
def test_near_miss_is_wrong(say: Say, most: float, scenes: list[Scene]):
    """A near miss does not fit the scene, but for a few that name a colour or a category which the other group has."""
    rng = Random("wrong")
    misses = [(captions.near_miss(say(scene, rng), rng), scene) for scene in scenes]
    right = fits_own([miss for miss, _ in misses if miss], [scene for miss, scene in misses if miss])
    assert len(right) > 1_000
    assert sum(right) <= most * len(right)


def test_near_miss_changes_one_thing():
    """Order, a number or colours change, one of them at a time, and each of them at some time."""
    said = Query((Mention("dog", "brown", 2), Mention("boat", "red", 1)), ordered=True, background="sea")
    dog, boat = said.mentions
    orders = {replace(said, mentions=(boat, dog))}
    numbers = {replace(said, mentions=(replace(dog, count=n), boat)) for n in (1, 3)}
    numbers |= {replace(said, mentions=(dog, replace(boat, count=n))) for n in (2, 3)}
    colors = {replace(said, mentions=(replace(dog, color="red"), replace(boat, color="brown")))}
    rng = Random(0)
    assert {captions.near_miss(said, rng) for _ in range(300)} == orders | numbers | colors


def test_near_miss_of_a_lone_color():
    """A single colour becomes any other one."""
    rng = Random(0)
    misses = {captions.near_miss(Query((Mention("dog", "white"),)), rng) for _ in range(500)}
    colors = {miss.mentions[0].color for miss in misses if miss}
    assert "white" not in colors
    assert {"brown", "red", "blue"} <= colors <= set(COLORS)


@pytest.mark.parametrize("say", FORMS)
def test_training_never_says_held_out(say: Say):
    """What training says, near misses included, never pairs a kind with a colour that is held out for it."""
    rng = Random("held out")
    for scene in (sample(seed, training=True) for seed in range(2_000)):
        said = say(scene, rng)
        for query in (said, captions.near_miss(said, rng) or said):
            pairs = [(m.what, m.color) for m in query.mentions if m.what in KINDS and m.color]
            assert not [pair for pair in pairs if held_out(*pair)]


@pytest.mark.parametrize("say", FORMS)
def test_near_miss_gives_no_held_out_pair(say: Say, scenes: list[Scene]):
    """Where a scene does show held-out pairs, its near misses name no others: those would always be wrong."""
    rng = Random("given")

    def unknown(query: Query) -> set[tuple[str, str]]:
        pairs = {(m.what, m.color) for m in query.mentions if m.what in KINDS and m.color}
        return {(str(kind), str(color)) for kind, color in pairs if held_out(str(kind), str(color))}

    asked = [(said, captions.near_miss(said, rng) or said) for said in (say(scene, rng) for scene in scenes)]
    assert any(unknown(said) for said, _ in asked)
    assert not [(said, miss) for said, miss in asked if unknown(miss) - unknown(said)]


@pytest.mark.parametrize(
    "query", [Query((Mention("dog"),)), Query(background="sea"), Query((Mention("food"),), time="day")]
)
def test_nothing_to_miss(query: Query):
    """A query without order, number and colour has no near miss."""
    assert captions.near_miss(query, Random(0)) is None


# ---------------------------------------------------------------- words


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_phrase_names_kind_color_and_number(kind: str, unseen: bool):  # noqa: FBT001 - a parameter
    """A phrase holds a word for the kind, the colour and a word for the number, when they are asked for."""
    rng = Random(kind)
    for number in range(60):
        color, count = rng.choice((None, *COLORS)), rng.choice((None, 1, 2, 3))
        said = words(captions.phrase(Query((Mention(kind, color, count),)), rng, unseen=unseen))
        assert said & names(kind), (number, said)
        assert said & set(COLORS) == ({color} if color else set()), (number, said)
        counted = [n for n, spelled in NUMBERS.items() if said & spelled]
        assert counted == ([count] if count else []), (number, said)


def test_synonyms_are_used():
    """Every synonym is said now and then, of one and of many."""
    for kind in KINDS.values():
        rng = Random(kind.name)
        said = set().union(*(words(captions.phrase(Query((Mention(kind.name),)), rng)) for _ in range(1_500)))
        assert names(kind.name) <= said, kind.name


def test_mood_has_words():
    """Each place, time and weather has words of its own: no two queries share a phrase."""
    rng = Random("mood")
    said = [
        {captions.phrase(query, rng) for _ in range(100)}
        for field, values in (
            ("background", captions._PLACES),
            ("time", captions._TIMES),
            ("weather", captions._WEATHERS),
        )
        for query in (replace(Query(), **{field: value}) for value in values)
    ]
    assert "" not in set().union(*said)
    assert len(set().union(*said)) == sum(map(len, said))


@pytest.mark.parametrize("unseen", [False, True])
def test_order_is_said_as_meant(unseen: bool):  # noqa: FBT001 - a parameter
    """However an order is put in words, the first thing is the left one."""
    rng = Random("order")
    seen = set()
    for _ in range(400):
        text = captions.phrase(Query((Mention("tent", "red"), Mention("moon")), ordered=True), rng, unseen=unseen)
        text = re.sub(r"crescents?|moons", "moon", text)
        tent_first = text.index("tent") < text.index("moon")
        if re.search(r"on the left\b.* on the right", text):
            form, left_first = "both, left first", True
        elif re.search(r"on the right and .*on the left", text):
            form, left_first = "both, right first", False
        else:
            left_first = "left of" in text
            form = "left of" if left_first else "right of"
            assert left_first != ("right of" in text)
        seen.add(form)
        assert tent_first == left_first, text
    assert len(seen) == 4


def test_every_ordered_template_is_said():
    """Each template for an order is used, is told from the others, and names both things once."""
    rng = Random("templates")
    query = Query((Mention("tent"), Mention("bed")), ordered=True)
    said = {captions.phrase(query, rng) for _ in range(3_000)}
    for template in captions.ORDERED:
        assert template.format(left="a tent", right="a bed") in said
        assert sorted(re.findall(r"\{(\w+)\}", template)) == ["left", "right"]
    assert len({template.format(left="a tent", right="a bed") for template in captions.ORDERED}) == 7


def test_no_order_no_side():
    """Without order no side is said, and either thing comes first."""
    rng = Random("sides")
    texts = [captions.phrase(Query((Mention("tent"), Mention("bed"))), rng) for _ in range(200)]
    assert not [text for text in texts if words(text) & {"left", "right"}]
    assert {text.index("tent") < text.index("bed") for text in texts} == {True, False}


@pytest.mark.parametrize("mention", [Mention("tent", "red"), Mention("tent", "red", 2), Mention("tent", None, 3)])
def test_unseen_is_never_trained(mention: Mention):
    """Things with a colour, or two and more, are said unseen as training never says them, whatever opens the phrase."""
    rng = Random("unseen")
    trained = {captions.phrase(Query((mention,)), rng) for _ in range(3_000)}
    unseen = {captions.phrase(Query((mention,)), rng, unseen=True) for _ in range(300)}
    assert len(unseen) >= 5
    assert not trained & unseen


def test_unseen_openings_are_never_trained(scenes: list[Scene]):
    """No training phrase opens as unseen ones do, and every unseen one does."""
    rng = Random("open")
    queries = [say(scene, rng) for scene in scenes for say in FORMS]
    assert not [text for q in queries if (text := captions.phrase(q, rng)).startswith(captions._UNSEEN_OPENINGS)]
    unseen = [captions.phrase(q, rng, unseen=True) for q in queries]
    assert not [text for text in unseen if not text.startswith(captions._UNSEEN_OPENINGS)]


@pytest.mark.parametrize("unseen", [False, True])
def test_phrases_are_short_and_lower_case(unseen: bool, scenes: list[Scene]):  # noqa: FBT001 - a parameter
    """Phrases are lower case, single spaced, and fit into 32 of CLIP's tokens with its start and end."""
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    rng = Random("tokens")
    for scene in scenes:
        for say in FORMS:
            text = captions.phrase(say(scene, rng), rng, unseen=unseen)
            assert text == " ".join(text.lower().split())
            assert len(tokenizer.encode(text)) + 2 <= 32, text
