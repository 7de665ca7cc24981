"""Scenes in words: full captions, short searches and their near misses, phrased in many ways.

A caption is chosen in two steps: what to say (a `Query`, whose truth is known) and how to say it (`phrase`). Some
ways of saying it are kept from training (`unseen`), to show that the model understands more than its templates.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

from indexing.scenes.scene import Group, Scene, held_out
from indexing.scenes.truth import Mention, Query
from indexing.scenes.vocabulary import CATEGORIES, COLORS, KINDS

_PLACES: Final = {
    "sea": ("by the sea", "at sea", "on the sea", "on the ocean", "in the water"),
    "street": ("in the street", "on a street", "in a city street", "on the road", "in the city"),
    "forest": ("in the forest", "in a forest", "in the woods", "among trees"),
    "room": ("in a room", "in the room", "indoors", "inside a house"),
    "desert": ("in the desert", "in a desert", "on sand dunes", "on the sand"),
    "snow": ("in the snow", "on snow", "in a snowy landscape", "on snowy ground", "in winter"),
    "field": ("in a field", "on a meadow", "on the grass", "in the meadow"),
    "mountains": ("in the mountains", "in front of mountains", "near the mountains", "with mountains behind"),
}
_TIMES: Final = {
    "day": ("by day", "in daylight", "during the day", "in the daytime"),
    "sunset": ("at sunset", "at dusk", "in the evening", "in the evening light"),
    "night": ("at night", "by night", "in the dark", "during the night"),
}
_WEATHERS: Final = {
    "clear": ("in clear weather", "under a clear sky", "in good weather"),
    "rain": ("in the rain", "in rainy weather", "while it rains", "in rain"),
    "fog": ("in fog", "in the fog", "in the mist", "in foggy weather"),
    "snowfall": ("in falling snow", "while it snows", "during snowfall", "as snow falls"),
}
_CATEGORY_WORDS: Final = {
    "animals": ("animal", "animals"),
    "people": ("figure", "figures"),
    "vehicles": ("vehicle", "vehicles"),
    "buildings": ("building", "buildings"),
    "plants": ("plant", "plants"),
    "furniture": ("piece of furniture", "pieces of furniture"),
    "food": ("food", "foods"),
    "sky": ("thing of the sky", "things of the sky"),
}
_COUNTS: Final = {
    1: ("one", "a single", "1", "just one", "only one"),
    2: ("two", "2", "a pair of", "a couple of", "two"),
    3: ("three", "3", "a trio of", "a group of three", "three"),
}
ORDERED: Final = (
    "{left} left of {right}",
    "{left} to the left of {right}",
    "{right} right of {left}",
    "{right} to the right of {left}",
    "{left} on the left and {right} on the right",
    "{right} on the right and {left} on the left",
    "on the left {left}, on the right {right}",
)
"""Ways to say that one thing is left of another."""

_OPENINGS: Final = ("",) * 9 + ("a picture of", "a photo of", "a drawing of", "an image of", "a scene with", "there is")
_UNSEEN_OPENINGS: Final = ("show me", "i am looking for", "find", "pictures with", "please search for")

# ---------------------------------------------------------------- what to say


def _mention(group: Group, rng: Random, *, color: float, count: float) -> Mention:
    return Mention(
        group.kind,
        group.color if rng.random() < color else None,
        group.count if rng.random() < count else None,
    )


def full(scene: Scene, rng: Random) -> Query:
    """Everything that is in the scene, in order; a lone thing is said to be alone half of the time."""
    mentions = tuple(_mention(g, rng, color=1, count=1 if g.count > 1 else 0.5) for g in scene.left_to_right)
    return Query(mentions, len(mentions) == 2, scene.background, scene.time, scene.weather)


def partial(scene: Scene, rng: Random) -> Query:
    """Some of what is in the scene: its things, perhaps in order, and perhaps where they are."""
    whole = full(scene, rng)
    mentions = tuple(_mention(_group_of(scene, m), rng, color=0.6, count=0.35) for m in whole.mentions)
    drop = [rng.random() < 0.65 for _ in range(3)]
    return Query(
        mentions,
        whole.ordered and rng.random() < 0.75,
        None if drop[0] else whole.background,
        None if drop[1] else whole.time,
        None if drop[2] else whole.weather,
    )


def short(scene: Scene, rng: Random) -> Query:
    """A search as people type it: one thing with at most two details, or a mood alone."""
    group = rng.choice(scene.groups)
    thing = Mention(group.kind)
    where = rng.choices(
        (Query(background=scene.background), Query(time=scene.time), Query(weather=scene.weather)), (0.5, 0.3, 0.2)
    )[0]
    form = rng.choices(
        ("color", "kind", "where", "count", "color where", "color count", "category", "anything", "mood"),
        (0.26, 0.12, 0.17, 0.15, 0.12, 0.06, 0.05, 0.03, 0.04),
    )[0]
    if form == "mood":
        return where
    if form == "category":
        thing = Mention(KINDS[group.kind].category)
    elif form == "anything":
        thing = Mention(None, group.color)
    if form.startswith("color") or (form == "category" and rng.random() < 0.4):
        thing = replace(thing, color=group.color)
    if form.endswith("count"):
        thing = replace(thing, count=group.count)
    return replace(where, mentions=(thing,)) if form.endswith("where") else Query((thing,))


def near_miss(query: Query, rng: Random) -> Query | None:
    """The same sentence with one thing wrong: order, number or colours; None if there is nothing to get wrong.

    It may still fit other scenes: `truth.fits` decides.
    """
    changes = []
    if query.ordered:
        changes += ["order"] * 2
    if any(m.count for m in query.mentions):
        changes += ["count"] * 2
    recolored = _recolored(query.mentions)
    if recolored:
        changes.append("color")
    if not changes:
        return None
    change = rng.choice(changes)
    mentions = list(query.mentions)
    if change == "order":
        mentions.reverse()
    elif change == "count":
        at = rng.choice([i for i, m in enumerate(mentions) if m.count])
        mentions[at] = replace(mentions[at], count=rng.choice([n for n in (1, 2, 3) if n != mentions[at].count]))
    else:
        mentions = list(rng.choice(recolored))
    return replace(query, mentions=tuple(mentions))


def _recolored(mentions: tuple[Mention, ...]) -> list[tuple[Mention, ...]]:
    """The mentions with their two colours exchanged or, where that can't be, with another colour for one of them.

    Never with a pair that is held out: as a near miss it would always be wrong, and training would teach just that.
    """

    def known(some: tuple[Mention, ...]) -> bool:
        return not any(m.what in KINDS and m.color and held_out(m.what, m.color) for m in some)

    if len({m.color for m in mentions if m.color}) == 2:
        first, second = mentions
        exchanged = (replace(first, color=second.color), replace(second, color=first.color))
        if known(exchanged):
            return [exchanged]
    others = [
        (*mentions[:at], replace(mention, color=color), *mentions[at + 1 :])
        for at, mention in enumerate(mentions)
        if mention.color
        for color in COLORS
        if color != mention.color
    ]
    return [some for some in others if known(some)]


def _group_of(scene: Scene, mention: Mention) -> Group:
    return next(group for group in scene.groups if group.kind == mention.what)


# ---------------------------------------------------------------- how to say it


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _nouns(mention: Mention, rng: Random) -> tuple[str, str]:
    """Singular and plural of what is mentioned, perhaps by a synonym."""
    if mention.what is None:
        return "thing", "things"
    if mention.what in CATEGORIES:
        return _CATEGORY_WORDS[mention.what]
    kind = KINDS[mention.what]
    if kind.synonyms and rng.random() < 0.2:
        synonym = rng.choice(kind.synonyms)
        plural = {"man": "men", "kitten": "kittens"}.get(synonym, synonym)
        if plural == synonym:
            if synonym.endswith(("s", "sh", "ch", "ss")):
                plural = f"{synonym}es"
            elif synonym.endswith("y") and synonym[-2] not in "aeiou":
                plural = f"{synonym[:-1]}ies"
            else:
                plural = f"{synonym}s"
        return synonym, plural
    return kind.name, kind.plural


def _noun_phrase(mention: Mention, rng: Random, *, unseen: bool) -> str:
    singular, plural = _nouns(mention, rng)
    color = mention.color
    if mention.what is None and color:
        return rng.choice((f"something {color}", color, f"a {color} thing", f"{color} things", f"anything {color}"))
    if mention.count is None:
        if unseen:
            form = f"{singular} {color}" if color else plural
            return rng.choice((form, f"{plural} in {color}" if color else f"some {plural}"))
        colored = f"{color} {singular}" if color else singular
        many = f"{color} {plural}" if color else plural
        after = f"{_article(singular)} that is {color}" if color else _article(singular)
        return rng.choices((_article(colored), colored, many, f"the {colored}", after), (0.5, 0.2, 0.15, 0.07, 0.08))[0]
    noun = singular if mention.count == 1 else plural
    colored = f"{color} {noun}" if color else noun
    number = rng.choice(_COUNTS[mention.count])
    if unseen and mention.count > 1:
        return f"{colored}, {('two', 'three')[mention.count - 2]}"
    return f"{number} {colored}"


def _things(query: Query, rng: Random, *, unseen: bool) -> str:
    names = [_noun_phrase(mention, rng, unseen=unseen) for mention in query.mentions]
    if len(names) < 2:
        return "".join(names)
    first, second = names
    if not query.ordered:
        if rng.random() < 0.5:
            first, second = second, first
        return rng.choice((f"{first} and {second}", f"{first} with {second}", f"{first} next to {second}"))
    return rng.choice(ORDERED).format(left=first, right=second)


def phrase(query: Query, rng: Random, *, unseen: bool = False) -> str:
    """A query in words, lower case. With `unseen`, in a way that training never uses."""
    where = [
        rng.choice(words[name])
        for words, name in ((_PLACES, query.background), (_TIMES, query.time), (_WEATHERS, query.weather))
        if name
    ]
    rng.shuffle(where)
    things = _things(query, rng, unseen=unseen)
    opening = rng.choice(_UNSEEN_OPENINGS if unseen else _OPENINGS)
    if things and where and not unseen and rng.random() < 0.15:
        ahead = where.pop()
        return " ".join(part for part in (f"{ahead},", things, *where) if part)
    return " ".join(part for part in (opening, things, *where) if part)
