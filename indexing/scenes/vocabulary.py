"""What a scene may hold: kinds of things, colours, places, times and weathers, by their plain word.

Everything else about scenes (sampling, drawing, captions, ground truth) is spelled with these names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing that can be drawn.

    Attributes:
        name: the plain English word, the label in the ground truth.
        plural: its plural.
        category: one of `CATEGORIES`.
        natural: three colours that it often has; `scene` draws them more often than the others.
        floats: true where it belongs in the air, false where it stands on the ground.
        synonyms: other singular words for it, used in captions.
        size: height relative to the tallest kinds, 0 to 1.
    """

    name: str
    plural: str
    category: str
    natural: tuple[str, str, str]
    floats: bool = False
    synonyms: tuple[str, ...] = ()
    size: float = 1.0


COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 38, 36),
    "orange": (245, 132, 24),
    "yellow": (250, 210, 40),
    "green": (46, 150, 62),
    "blue": (36, 92, 208),
    "purple": (130, 54, 176),
    "pink": (246, 136, 184),
    "brown": (122, 76, 40),
    "black": (34, 34, 38),
    "white": (244, 244, 240),
}
"""The ten colours, as 8-bit sRGB."""

CATEGORIES: Final = (
    "animals",
    "people",
    "vehicles",
    "buildings",
    "plants",
    "furniture",
    "food",
    "sky",
)

BACKGROUNDS: Final = ("sea", "street", "forest", "room", "desert", "snow", "field", "mountains")
TIMES: Final = ("day", "sunset", "night")
WEATHERS: Final = ("clear", "rain", "fog", "snowfall")
POSITIONS: Final = ("left", "center", "right")

_KINDS: Final = (
    Kind("dog", "dogs", "animals", ("brown", "black", "white"), synonyms=("puppy",), size=0.75),
    Kind("cat", "cats", "animals", ("orange", "black", "white"), synonyms=("kitten",), size=0.75),
    Kind("rabbit", "rabbits", "animals", ("white", "brown", "pink"), synonyms=("bunny",), size=0.75),
    Kind("bird", "birds", "animals", ("blue", "red", "yellow"), floats=True, size=0.65),
    Kind("fish", "fish", "animals", ("orange", "blue", "yellow"), size=0.65),
    Kind("horse", "horses", "animals", ("brown", "white", "black"), synonyms=("pony",)),
    Kind("elephant", "elephants", "animals", ("blue", "pink", "white")),
    Kind("snake", "snakes", "animals", ("green", "yellow", "red"), synonyms=("serpent",), size=0.65),
    Kind("butterfly", "butterflies", "animals", ("purple", "orange", "blue"), floats=True, size=0.65),
    Kind("turtle", "turtles", "animals", ("green", "brown", "blue"), synonyms=("tortoise",), size=0.65),
    Kind("person", "people", "people", ("red", "blue", "green"), synonyms=("man", "human")),
    Kind("snowman", "snowmen", "people", ("white", "blue", "pink"), size=0.95),
    Kind("robot", "robots", "people", ("white", "orange", "blue"), synonyms=("android",), size=0.95),
    Kind("car", "cars", "vehicles", ("red", "blue", "black"), synonyms=("automobile",), size=0.7),
    Kind("bus", "buses", "vehicles", ("yellow", "red", "green"), synonyms=("coach",), size=0.85),
    Kind("bicycle", "bicycles", "vehicles", ("red", "green", "purple"), synonyms=("bike",), size=0.8),
    Kind("boat", "boats", "vehicles", ("white", "red", "blue"), synonyms=("sailboat", "ship"), size=0.9),
    Kind("airplane", "airplanes", "vehicles", ("white", "blue", "orange"), floats=True, synonyms=("plane",), size=0.75),
    Kind("train", "trains", "vehicles", ("green", "black", "red"), synonyms=("locomotive",), size=0.75),
    Kind("rocket", "rockets", "vehicles", ("white", "red", "orange"), floats=True, synonyms=("spaceship",)),
    Kind("balloon", "balloons", "vehicles", ("purple", "yellow", "pink"), floats=True),
    Kind("house", "houses", "buildings", ("red", "white", "yellow"), synonyms=("home",)),
    Kind("tower", "towers", "buildings", ("white", "brown", "red")),
    Kind("castle", "castles", "buildings", ("brown", "pink", "purple"), synonyms=("fortress",)),
    Kind("tent", "tents", "buildings", ("orange", "green", "blue"), size=0.8),
    Kind("windmill", "windmills", "buildings", ("white", "brown", "blue"), synonyms=("mill",)),
    Kind("bridge", "bridges", "buildings", ("red", "black", "brown"), size=0.7),
    Kind("tree", "trees", "plants", ("green", "orange", "yellow")),
    Kind("flower", "flowers", "plants", ("red", "pink", "purple"), synonyms=("blossom",), size=0.8),
    Kind("cactus", "cacti", "plants", ("green", "pink", "purple"), size=0.9),
    Kind("mushroom", "mushrooms", "plants", ("red", "brown", "white"), synonyms=("toadstool",), size=0.75),
    Kind("palm", "palms", "plants", ("green", "yellow", "brown")),
    Kind("chair", "chairs", "furniture", ("brown", "red", "blue"), synonyms=("seat",), size=0.85),
    Kind("table", "tables", "furniture", ("brown", "white", "black"), synonyms=("desk",), size=0.7),
    Kind("lamp", "lamps", "furniture", ("yellow", "green", "pink"), size=0.95),
    Kind("bed", "beds", "furniture", ("blue", "pink", "purple"), size=0.7),
    Kind("clock", "clocks", "furniture", ("white", "black", "orange"), size=0.8),
    Kind("apple", "apples", "food", ("red", "green", "yellow"), size=0.7),
    Kind("cake", "cakes", "food", ("pink", "brown", "white"), synonyms=("gateau",), size=0.75),
    Kind("banana", "bananas", "food", ("yellow", "green", "brown"), size=0.65),
    Kind("carrot", "carrots", "food", ("orange", "purple", "red"), size=0.75),
    Kind("cherry", "cherries", "food", ("red", "black", "pink"), size=0.7),
    Kind("moon", "moons", "sky", ("white", "yellow", "orange"), floats=True, synonyms=("crescent",), size=0.7),
    Kind("cloud", "clouds", "sky", ("white", "pink", "blue"), floats=True, size=0.65),
    Kind("star", "stars", "sky", ("yellow", "white", "pink"), floats=True, size=0.65),
    Kind("kite", "kites", "sky", ("red", "purple", "green"), floats=True, size=0.85),
)

KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in _KINDS}
"""Every kind by name, in a fixed order: an index into it is a stable class number."""
