"""The judge of every answer: which sentences fit which scenes."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from indexing.scenes import captions
from indexing.scenes.scene import Group, Scene, sample
from indexing.scenes.truth import Mention, Query, fits, query_table, scene_table, shows_main_kind
from indexing.scenes.vocabulary import BACKGROUNDS, CATEGORIES, COLORS, KINDS, TIMES, WEATHERS

TWO_DOGS = Scene(1, (Group("dog", "brown", 2, "center"),), "field", "day", "clear")
LONE_CAR = Scene(2, (Group("car", "red", 1, "right"),), "street", "night", "rain")
CAT_AND_BOAT = Scene(3, (Group("cat", "black", 1, "right"), Group("boat", "red", 2, "left")), "sea", "sunset", "fog")
DOG_AND_HORSE = Scene(4, (Group("dog", "white", 1, "left"), Group("horse", "black", 1, "right")), "snow", "day", "rain")


def fits_one(query: Query, scene: Scene) -> bool:
    """Whether one query fits one scene."""
    return bool(fits(query_table([query]), scene_table([scene]))[0, 0])


def slow_fits(query: Query, scene: Scene) -> bool:
    """The meaning of `fits`, spelled out for one query and one scene."""

    def is_of(mention: Mention, group: Group) -> bool:
        return (
            mention.what in (None, group.kind, KINDS[group.kind].category)
            and mention.color in (None, group.color)
            and mention.count in (None, group.count)
        )

    for asked, so in (
        (query.background, scene.background),
        (query.time, scene.time),
        (query.weather, scene.weather),
    ):
        if asked is not None and asked != so:
            return False
    if len(query.mentions) < 2:
        return all(any(is_of(mention, group) for group in scene.groups) for mention in query.mentions)
    if len(scene.groups) < 2:
        return False
    left = next(group for group in scene.groups if group.position == "left")
    right = next(group for group in scene.groups if group.position == "right")
    first, second = query.mentions
    if is_of(first, left) and is_of(second, right):
        return True
    return not query.ordered and is_of(first, right) and is_of(second, left)


@pytest.mark.parametrize(
    ("mention", "scene", "fitting"),
    [
        (Mention("dog"), TWO_DOGS, True),
        (Mention("cat"), TWO_DOGS, False),
        (Mention("dog", "brown"), TWO_DOGS, True),
        (Mention("dog", "white"), TWO_DOGS, False),
        (Mention("dog", None, 2), TWO_DOGS, True),
        (Mention("dog", None, 1), TWO_DOGS, False),
        (Mention("dog", None, 3), TWO_DOGS, False),
        (Mention("dog", "brown", 2), TWO_DOGS, True),
        (Mention("boat"), CAT_AND_BOAT, True),
        (Mention("cat"), CAT_AND_BOAT, True),
        (Mention("boat", None, 2), CAT_AND_BOAT, True),
        (Mention("cat", None, 2), CAT_AND_BOAT, False),
    ],
)
def test_kind_color_and_number(mention: Mention, scene: Scene, fitting: bool):  # noqa: FBT001 - a table's column
    """A kind is found in either group, in its own colour and number only."""
    assert fits_one(Query((mention,)), scene) is fitting


def test_color_belongs_to_its_thing():
    """The colour of one thing is not another's: a red boat and a black cat are no red cat."""
    assert not fits_one(Query((Mention("cat", "red"),)), CAT_AND_BOAT)
    assert not fits_one(Query((Mention("boat", "black"),)), CAT_AND_BOAT)


def test_category():
    """A category fits each of its kinds, in the asked colour, and no other kind."""
    assert fits_one(Query((Mention("animals"),)), CAT_AND_BOAT)
    assert fits_one(Query((Mention("vehicles"),)), CAT_AND_BOAT)
    assert fits_one(Query((Mention("vehicles", "red"),)), CAT_AND_BOAT)
    assert not fits_one(Query((Mention("animals", "red"),)), CAT_AND_BOAT)
    assert not fits_one(Query((Mention("plants"),)), CAT_AND_BOAT)


def test_every_kind_has_its_category():
    """Of all categories exactly its own fits a kind."""
    scenes = [Scene(0, (Group(kind, "red", 1, "center"),), "sea", "day", "clear") for kind in KINDS]
    found = fits(query_table([Query((Mention(category),)) for category in CATEGORIES]), scene_table(scenes))
    assert [CATEGORIES[column.argmax()] for column in found.T] == [kind.category for kind in KINDS.values()]
    assert (found.sum(axis=0) == 1).all()


def test_color_alone():
    """A colour alone fits anything of that colour, in either group."""
    assert fits_one(Query((Mention(None, "red"),)), CAT_AND_BOAT)
    assert fits_one(Query((Mention(None, "black"),)), CAT_AND_BOAT)
    assert not fits_one(Query((Mention(None, "white"),)), CAT_AND_BOAT)


@pytest.mark.parametrize(
    ("query", "fitting"),
    [
        (Query(background="street"), True),
        (Query(background="sea"), False),
        (Query(time="night"), True),
        (Query(time="day"), False),
        (Query(weather="rain"), True),
        (Query(weather="clear"), False),
        (Query(background="street", time="night", weather="rain"), True),
        (Query(background="street", time="night", weather="fog"), False),
        (Query((Mention("car"),), background="street"), True),
        (Query((Mention("car"),), background="forest"), False),
        (Query((Mention("bus"),), background="street"), False),
    ],
)
def test_mood(query: Query, fitting: bool):  # noqa: FBT001 - a table's column
    """Place, time and weather must all be as asked, with or without a thing."""
    assert fits_one(query, LONE_CAR) is fitting


def test_order():
    """An ordered query fits only with the first thing on the left; an unordered one fits both ways."""
    boat, cat = Mention("boat"), Mention("cat")
    assert fits_one(Query((boat, cat), ordered=True), CAT_AND_BOAT)
    assert not fits_one(Query((cat, boat), ordered=True), CAT_AND_BOAT)
    assert fits_one(Query((boat, cat)), CAT_AND_BOAT)
    assert fits_one(Query((cat, boat)), CAT_AND_BOAT)


def test_both_mentions_must_be_there():
    """Two mentions fit only two groups: no group counts for both."""
    assert not fits_one(Query((Mention("boat"), Mention("dog"))), CAT_AND_BOAT)
    assert not fits_one(Query((Mention("boat"), Mention("boat"))), CAT_AND_BOAT)
    assert not fits_one(Query((Mention("boat"), Mention(None, "red"))), CAT_AND_BOAT)
    assert fits_one(Query((Mention("animals"), Mention("animals"))), DOG_AND_HORSE)


def test_one_group_never_fits_two_mentions():
    """A scene with one group fits no query for two things, however vague."""
    for first in (Mention("dog"), Mention("animals"), Mention(None, "brown"), Mention()):
        for ordered in (False, True):
            assert not fits_one(Query((first, Mention()), ordered=ordered), TWO_DOGS)
            assert not fits_one(Query((Mention(), first), ordered=ordered), TWO_DOGS)


def test_nothing_asked_fits_all():
    """A query that leaves everything open fits every scene."""
    assert fits(query_table([Query()]), scene_table([TWO_DOGS, LONE_CAR, CAT_AND_BOAT])).all()


def test_scene_table_reads_left_to_right():
    """The left group comes first, whichever is the main one; a missing one is -2."""
    table = scene_table([CAT_AND_BOAT, TWO_DOGS])
    kinds, colors = list(KINDS), list(COLORS)
    assert list(table[0, :6]) == [
        kinds.index("boat"),
        colors.index("red"),
        2,
        kinds.index("cat"),
        colors.index("black"),
        1,
    ]
    assert list(table[1, :6]) == [kinds.index("dog"), colors.index("brown"), 2, -2, -2, -2]


def test_no_queries_or_scenes():
    """Empty tables have their columns, and nothing fits nothing."""
    nothing, one = scene_table([]), scene_table([TWO_DOGS])
    assert (query_table([]).shape, nothing.shape) == ((0, 13), (0, 9))
    assert fits(query_table([]), one).shape == (0, 1)
    assert fits(query_table([Query()]), nothing).shape == (1, 0)


def test_shows_main_kind_asks_for_the_larger_thing():
    """A row asks for the kind of its scene's first group, wherever it stands; a column has it in either group."""
    cat_in_front = CAT_AND_BOAT
    boat_in_front = Scene(5, CAT_AND_BOAT.groups[::-1], "field", "night", "clear")
    lone_cat = Scene(6, (Group("cat", "white", 3, "center"),), "room", "day", "clear")
    assert shows_main_kind([cat_in_front, boat_in_front, lone_cat, LONE_CAR]).tolist() == [
        [True, True, True, False],
        [True, True, False, False],
        [True, True, True, False],
        [False, False, False, True],
    ]


def test_shows_main_kind_agrees_with_fits():
    """It is what a search for the main kind alone finds."""
    scenes = [sample(seed) for seed in range(300)]
    searches = query_table([Query((Mention(scene.groups[0].kind),)) for scene in scenes])
    assert np.array_equal(shows_main_kind(scenes), fits(searches, scene_table(scenes)))


def random_query(rng: Random, scenes: list[Scene]) -> Query:
    """Something said of one of the scenes, its near miss, or any query at all."""
    form = rng.choice((captions.full, captions.partial, captions.short, None, None))
    if form:
        said = form(rng.choice(scenes), rng)
        return rng.choice((said, captions.near_miss(said, rng) or said))
    mentions = tuple(
        Mention(
            rng.choice((None, rng.choice(CATEGORIES), rng.choice(tuple(KINDS)))),
            rng.choice((None, None, rng.choice(tuple(COLORS)))),
            rng.choice((None, None, 1, 2, 3)),
        )
        for _ in range(rng.choice((0, 1, 2)))
    )
    return Query(
        mentions,
        len(mentions) == 2 and rng.random() < 0.5,
        rng.choice((None, None, rng.choice(BACKGROUNDS))),
        rng.choice((None, None, rng.choice(TIMES))),
        rng.choice((None, None, rng.choice(WEATHERS))),
    )


def test_agrees_with_slow_reference():
    """On 300 random queries and 300 random scenes the tables judge as the plain words do."""
    rng = Random("slow")
    scenes = [sample(seed) for seed in range(300)]
    queries = [random_query(rng, scenes) for _ in range(300)]
    expected = np.array([[slow_fits(query, scene) for scene in scenes] for query in queries])
    found = fits(query_table(queries), scene_table(scenes))
    assert expected.sum() > 2_000
    for row, column in np.argwhere(found != expected):
        pytest.fail(f"{queries[row]} and {scenes[column]}: fits says {found[row, column]}")
