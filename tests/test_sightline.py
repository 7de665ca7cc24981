from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import sightline
from engine.errors import BadUserInput
from engine.generations import GenerationStore
from engine.indexes.edge import EdgeIndex
from engine.ports import Point
from engine.settings import Settings, settings
from graphql_api.app import create_app
from tests.graphql_api.live import run_server
from tests.support.encoders import PALETTE, WordEncoder

ROOT = Path(__file__).parents[1]
NOWHERE = "9"
"""The discard port, where nothing listens."""


@dataclass
class Terminal:
    """Runs commands in this process, with settings read anew for each."""

    patch: pytest.MonkeyPatch
    data: Path

    def invoke(self, *words: str, **environment: str) -> Result:
        """What came of a command."""
        for name, value in environment.items():
            self.patch.setenv(name, value)
        settings.cache_clear()
        return CliRunner().invoke(sightline.app, words, catch_exceptions=False)

    def __call__(self, *words: str, **environment: str) -> str:
        """What a command that succeeds prints."""
        result = self.invoke(*words, **environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str, **environment: str) -> Any:
        """What a command prints with --json, which is one line."""
        (line,) = self(*words, "--json", **environment).splitlines()
        return json.loads(line)


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal in an empty folder, in which ten pictures of one colour each are indexed with the words' encoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDEX_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("API_PORT", NOWHERE)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sightline.out, "_width", 400)
    monkeypatch.setattr("engine.encoders.choice.load_encoder", lambda _settings: WordEncoder())
    build(tmp_path)
    yield Terminal(monkeypatch, tmp_path / "data")
    settings.cache_clear()


def build(folder: Path, model: str = "words") -> str:
    """Indexes ten pictures as a new generation that serves; returns its id."""
    encoder = WordEncoder(name=model)
    values = Settings(_env_file=None, index_path=folder / "data")
    store = GenerationStore(values.index_path, values.index_name)
    generation = store.begin(encoder.model)

    async def fill() -> None:
        index = EdgeIndex.create(generation.shard, encoder.model.dimension, values)
        await index.upsert([paint(encoder, folder, number, colour) for number, colour in enumerate(PALETTE)])
        await index.close()

    asyncio.run(fill())
    store.finish(generation, len(PALETTE))
    store.promote(generation.id)
    return generation.id


def paint(encoder: WordEncoder, folder: Path, number: int, colour: str) -> Point:
    """A picture of a colour, and what the index holds of it."""
    path = folder / f"{colour}.png"
    Image.new("RGB", (16, 16), PALETTE[colour]).save(path)
    with Image.open(path) as picture:
        vector = encoder.encode_images(encoder.preprocess(picture)[None])[0]
    payload = {"filePath": str(path), "fileName": path.name, "metadata": {"caption": f"all {colour}"}}
    return Point(f"00000000-0000-4000-8000-{number:012}", vector, payload)


@pytest.fixture
def with_server(terminal: Terminal) -> Iterator[Callable[..., Any]]:
    """Runs a command while a server has the index open, and tells it where."""
    with run_server(create_app(Settings(_env_file=None, index_path=terminal.data), WordEncoder())) as api:
        yield lambda *words: terminal.json(*words, API_PORT=api.url.rpartition(":")[2])


# ---------------------------------------------------------------- search


def test_search_lists_the_best_pictures(terminal: Terminal):
    """Rank, score, file and caption, best first, and how many there are."""
    lines = terminal("search", "red", "--first", "3").splitlines()
    assert re.search(r"1 +1\.000 +\S+/red\.png +all red", lines[1])
    assert len(lines) == 1 + 3 + 1
    assert "10 pictures" in lines[-1]


def test_search_prints_one_json_object(terminal: Terminal):
    """With --json a program can read it."""
    found = terminal.json("search", "green", "--first", "2")
    assert found.keys() == {"query", "hits", "total", "latencyMs", "cached"}
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    assert found["hits"][0]["metadata"] == {"caption": "all green"}


@pytest.mark.parametrize("words", [("blue",), ("--image", "pink.png"), ("blue", "--image", "pink.png")])
def test_search_answers_the_same_with_and_without_a_server(terminal: Terminal, words: tuple[str, ...]):
    """Words, a picture or both: equal ids and scores, whoever has the index open."""
    alone = terminal.json("search", *words)
    with run_server(create_app(Settings(_env_file=None, index_path=terminal.data), WordEncoder())) as api:
        served = terminal.json("search", *words, API_PORT=api.url.rpartition(":")[2])
    assert [hit["id"] for hit in served["hits"]] == [hit["id"] for hit in alone["hits"]]
    assert [hit["score"] for hit in served["hits"]] == pytest.approx([hit["score"] for hit in alone["hits"]], abs=1e-6)
    assert served["hits"][0]["filePath"] == alone["hits"][0]["filePath"]


def test_search_through_a_server_loads_no_model(with_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    """Words are encoded by the server, which is warm."""
    monkeypatch.setattr("engine.encoders.choice.load_encoder", lambda _settings: pytest.fail("loaded a model"))
    assert with_server("search", "red")["hits"][0]["filePath"].endswith("red.png")


def test_search_passes_by_a_server_of_another_folder(terminal: Terminal, tmp_path: Path):
    """INDEX_PATH decides what is searched, whatever else runs on the port."""
    (tmp_path / "other").mkdir()
    build(tmp_path / "other")
    with run_server(create_app(Settings(_env_file=None, index_path=tmp_path / "other" / "data"), WordEncoder())) as api:
        found = terminal.json("search", "red", API_PORT=api.url.rpartition(":")[2])
    assert found["hits"][0]["filePath"] == str(tmp_path / "red.png")


def test_the_servers_refusal_is_passed_on(with_server: Callable[..., Any]):
    """What the server says is wrong is said in the terminal too."""
    with pytest.raises(BadUserInput, match=r"The running server answered: query: .* 512"):
        with_server("search", "x" * 600)


# ---------------------------------------------------------------- the other commands


def test_settings_prints_every_setting_with_its_reason(terminal: Terminal):
    """Variable, value and the whole description of each."""
    printed = " ".join(re.sub(r"[^\x20-\x7e]", " ", terminal("settings", SEARCH_EF="99")).split())
    for name, field in Settings.model_fields.items():
        assert name.upper() in printed
        assert field.description
        assert " ".join(field.description.split()) in printed
    assert re.search(r"SEARCH_EF 99 128", printed)


def test_models_lists_the_shipped_one(terminal: Terminal):
    """The default model is on this machine; ViT-H-14 is named for photographs."""
    known = {(model["name"], model["pretrained"]): model["local"] for model in terminal.json("models")}
    assert known["sightline-small", ""] is True
    assert ("ViT-H-14", "laion2b_s32b_b79k") in known
    assert "sightline-small" in terminal("models")


def test_generations_are_listed_promoted_and_rolled_back(terminal: Terminal, tmp_path: Path):
    """The newest serves, the older can, and rolling back undoes it."""
    (old,) = (row["id"] for row in terminal.json("generations", "list"))
    new = build(tmp_path)

    def serving() -> list[str]:
        return [row["id"] for row in terminal.json("generations", "list") if row["serving"]]

    assert serving() == [new]
    assert re.search(rf"→ +{new} +ready +10 +words ", terminal("generations", "list"))
    assert terminal("generations", "promote", old) == f"{old} serves.\n"
    assert serving() == [old]
    assert terminal("generations", "rollback") == f"{new} serves again.\n"
    assert serving() == [new]


def test_a_generation_is_verified(terminal: Terminal, tmp_path: Path):
    """What is there, what the graph finds, and what canaries miss; the exit status says whether it is fit to serve."""
    (id_,) = (row["id"] for row in terminal.json("generations", "list"))
    assert terminal("generations", "verify").startswith(f"{id_}: 10 of 10 pictures; recall@10 1.000 of ")
    canaries = tmp_path / "canaries.json"
    canaries.write_text('[{"query": "red", "expect": ["lost.png"]}]')
    result = terminal.invoke("generations", "verify", id_, "--json", INDEX_CANARIES=str(canaries))
    found = json.loads(result.stdout)
    assert (result.exit_code, found["holds"], found["canaries"]) == (1, False, 1)
    assert found["failures"] == ["'red' does not find lost.png among its first 10 hits"]


def test_generations_are_pruned(terminal: Terminal, tmp_path: Path):
    """All but so many; the serving one stays."""
    ids = [row["id"] for row in terminal.json("generations", "list")] + [build(tmp_path), build(tmp_path)]
    assert terminal("generations", "prune", "--keep", "3") == "Nothing to delete.\n"
    assert terminal("generations", "prune", "--keep", "1") == "".join(f"{id_} is deleted.\n" for id_ in ids[1::-1])
    assert [row["id"] for row in terminal.json("generations", "list")] == ids[2:]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("search", "red", "--index", "nowhere"), "There is no index 'nowhere'."),
        (("generations", "promote", "nothing"), "has no generation 'nothing'"),
        (("index", "no-such-folder"), "no-such-folder"),
    ],
)
def test_an_expected_error_is_one_line(tmp_path: Path, words: tuple[str, ...], says: str):
    """On standard error, with an exit status that says it is in vain to try again, and nothing on standard output."""
    environment = os.environ | {"INDEX_PATH": str(tmp_path / "data"), "API_PORT": NOWHERE}
    command = [sys.executable, str(ROOT / "sightline.py"), *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 65
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line
