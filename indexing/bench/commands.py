"""`sightline bench …`: one command a benchmark. Each imports its part when called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import orjson
import typer
from rich.console import Console

if TYPE_CHECKING:
    from indexing.bench.report import Report

bench_app = typer.Typer(no_args_is_help=True, help="Measure speed, with recall beside it, against something else.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

_FILE_WIDTH: Final = 200
"""Characters in a line of a report that goes to a file."""


def print_report(report: Report, *, as_json: bool) -> None:
    """Prints a report as a table, or as one JSON object."""
    if as_json:
        typer.echo(orjson.dumps(report.as_json()).decode())
    else:
        report.show(Console(width=None if sys.stdout.isatty() else _FILE_WIDTH))


@bench_app.command()
def weights(
    name: Annotated[str, typer.Argument(help="An OpenCLIP architecture, such as ViT-H-14.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the file.")] = Path("data/bench/weights"),
    seed: Annotated[int, typer.Option(help="Seed: the same weights on every machine.")] = 0,
) -> None:
    """Make random weights of an architecture, which are as fast as trained ones, and print the settings for them."""
    from indexing.bench.weights import random_weights

    path = random_weights(name, folder, seed)
    typer.echo(f"CLIP_MODEL={name}\nCLIP_PRETRAINED={path}")


@bench_app.command()
def encode(
    times: Annotated[int, typer.Option(min=8, help="How many single queries.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Compare the encoder with plain open_clip: CLIP_MODEL's weights, one query at a time and sixteen at once."""
    from engine.settings import settings
    from indexing.bench.encode import run

    print_report(run(settings(), times=times), as_json=as_json)


@bench_app.command()
def growth(
    counts: Annotated[
        str, typer.Option(help="Numbers of vectors; one may have a dimension of its own: 10k,100k,1Mx1024.")
    ] = "10000,100000,1000000",
    dim: Annotated[int, typer.Option(min=8, max=4096, help="Dimension of the others.")] = 512,
    ef: Annotated[str, typer.Option(help="Values of SEARCH_EF to measure.")] = "64,128,256,512",
    searches: Annotated[int, typer.Option(min=20, help="How many queries are measured.")] = 500,
    save: Annotated[bool, typer.Option("--save", help="Let `sightline plan` use the laws from now on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build an index in several sizes, and fit laws to its build time, memory, latency and recall."""
    from engine.settings import settings
    from indexing.bench.growth import parse_sizes, run
    from indexing.bench.index import parse_efs
    from indexing.bench.laws import LAWS

    sizes = parse_sizes(counts, dim)
    report = run(sizes, searches=searches, efs=parse_efs(ef), settings=settings(), save=LAWS if save else None)
    print_report(report, as_json=as_json)


@bench_app.command("search")
def search_command(
    index: Annotated[str | None, typer.Option("--index", help="Name of the index; INDEX_NAME when not given.")] = None,
    queries: Annotated[int, typer.Option(min=20, help="Searches that are timed alone.")] = 500,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each run under load; there are about eight.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of queries and arrivals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Start a server on an index and measure whole GraphQL searches over HTTP, alone and under load."""
    from engine.settings import settings
    from indexing.bench.search import run

    print_report(run(settings(), index, queries, seconds, seed), as_json=as_json)


@bench_app.command("soak")
def soak_command(
    index: Annotated[str | None, typer.Option("--index", help="Name of the index; INDEX_NAME when not given.")] = None,
    requests: Annotated[int, typer.Option(min=1000, help="How many requests.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the requests.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Send a server very many mixed requests, wrong ones among them, and watch whether its memory stays flat."""
    from engine.settings import settings
    from indexing.bench.soak import run

    print_report(run(settings(), index, requests, seed), as_json=as_json)


@bench_app.command("indexing")
def indexing_command(
    source: Annotated[
        Path | None, typer.Argument(help="Folder of pictures; scenes are drawn if none is named.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures that each stage gets.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is measured; the fastest counts.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Measure decoding, encoding and writing alone, then a run of all three against the slowest of them."""
    from engine.encoders.choice import load_encoder
    from engine.settings import settings
    from indexing.bench.indexing import run, scenes_or

    pictures = scenes_or(source, count, lambda text: typer.echo(text, err=True))
    print_report(run(pictures, settings(), load_encoder(settings()), count=count, rounds=rounds), as_json=as_json)


@bench_app.command("index")
def index_command(
    count: Annotated[int, typer.Option(min=100, help="How many vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=8, max=4096, help="Their dimension.")] = 1024,
    queries: Annotated[int, typer.Option(min=10, help="Searches that are timed at each ef.")] = 300,
    efs: Annotated[str, typer.Option("--ef", help="Values of SEARCH_EF, with commas between.")] = "64,128,256",
    as_json: AsJson = False,
) -> None:
    """Measure the index alone: Qdrant Edge in this process, in a process of its own, and comparing everything."""
    from engine.settings import settings
    from indexing.bench.index import parse_efs, run

    print_report(run(count, dim, asked=queries, efs=parse_efs(efs), settings=settings()), as_json=as_json)


@bench_app.command("build")
def build_command(
    count: Annotated[int, typer.Option(min=100, help="How many vectors.")] = 100_000,
    dim: Annotated[int, typer.Option(min=8, max=4096, help="Their dimension.")] = 512,
    as_json: AsJson = False,
) -> None:
    """Build an index as `sightline index` does and with Qdrant Edge alone: time, memory and recall of both."""
    from engine.settings import settings
    from indexing.bench.build import run

    print_report(run(count, dim, settings=settings()), as_json=as_json)


@bench_app.command("peers")
def peers_command(
    pictures: Annotated[int, typer.Option(min=20, help="How many pictures are drawn and searched.")] = 2000,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="sightline, numpy, faiss, clip-retrieval, infinity, clip-server; all if none."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="sightline-small for true recall; ViT-B-32 has random weights here, and true speed.")
    ] = "sightline-small",
    as_json: AsJson = False,
) -> None:
    """Measure Sightline beside what else one could use: same machine, weights, pictures and queries, one run."""
    from indexing.bench.peers.driver import run

    report = run(model, pictures, peer or (), say=lambda line: typer.echo(line, err=True))
    print_report(report, as_json=as_json)


@bench_app.command("start")
def start_command(
    times: Annotated[int, typer.Option(min=1, help="How often each way is started.")] = 3,
    lean: Annotated[str | None, typer.Option(help="The `sightline` program of an install without PyTorch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how long a server takes to be ready, compiled for the processor and on PyTorch."""
    from engine.settings import settings
    from indexing.bench.start import run

    print_report(run(settings(), times=times, lean=lean), as_json=as_json)
