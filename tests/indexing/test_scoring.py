import csv
from pathlib import Path

import pytest
from PIL import Image

from engine.errors import BadUserInput
from engine.settings import Settings
from indexing.scoring import Pair, score, score_csv
from tests.support.encoders import WordEncoder

SETTINGS = Settings()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A red and a blue picture, and a file that is none."""
    for color in ("red", "blue"):
        Image.new("RGB", (40, 30), color).save(tmp_path / f"{color}.png")
    (tmp_path / "bad.png").write_text("not a picture")
    return tmp_path


def test_a_picture_fits_its_own_words_best(pictures: Path):
    """The right text scores above the wrong one, for each picture."""
    names = ("red", "blue")
    pairs = [Pair(str(pictures / f"{image}.png"), text) for image in names for text in names]
    red_red, red_blue, blue_red, blue_blue = (scored.score for scored in score(WordEncoder(), pairs, SETTINGS))
    assert red_red > red_blue
    assert blue_blue > blue_red


def test_one_bad_picture_fails_only_its_own_pair(pictures: Path):
    """A file that is no picture has a reason, a missing one too, and the others have the scores they have alone."""
    encoder, good = WordEncoder(), Pair(str(pictures / "red.png"), "red")
    bad, missing, scored = score(
        encoder, [Pair(str(pictures / "bad.png"), "red"), Pair(str(pictures / "none.png"), "red"), good], SETTINGS
    )
    assert (bad.score, missing.score) == (None, None)
    assert "not a picture" in bad.error
    assert "No such file" in missing.error
    assert scored.score == pytest.approx(score(encoder, [good], SETTINGS)[0].score, abs=1e-6)


def test_csv_keeps_rows_and_columns_and_adds_score_and_error(pictures: Path):
    """Every row comes out in order, with its own columns, scored or not, over several batches."""
    lines = [f"{number},{('red', 'blue', 'bad')[number % 3]}.png,red" for number in range(100)]
    source, target = pictures / "in.csv", pictures / "out.csv"
    source.write_text("\n".join(["number,image,text", *lines]))
    assert score_csv(WordEncoder(), source, target, SETTINGS) == (100, 33)
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["number"] for row in rows] == [str(number) for number in range(100)]
    assert float(rows[0]["score"]) > float(rows[1]["score"])
    assert rows[2]["score"] == ""
    assert rows[2]["error"]
    assert rows[0]["error"] == ""


@pytest.mark.parametrize(
    ("content", "says"), [("", "image and text"), ("picture,words\n", "image and text"), (b"\xff\xfe", "UTF-8")]
)
def test_a_file_that_is_no_such_csv_is_refused(pictures: Path, content: str | bytes, says: str):
    """The error says what the file must hold, and no half-written target is left."""
    source, target = pictures / "in.csv", pictures / "out.csv"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadUserInput, match=says):
        score_csv(WordEncoder(), source, target, SETTINGS)
    assert sorted(path.name for path in pictures.glob("*out*")) == []
