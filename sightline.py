"""The command line, thin: each command imports its part when called, so that `--help` and small commands are quick."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from engine.errors import BadUserInput, SightlineError
from engine.patience import PATIENCE_S
from engine.settings import Settings, settings
from indexing.bench.commands import bench_app, print_report
from observability import logs

if TYPE_CHECKING:
    from engine.generations import Generations

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False, help="Image search.")
simulate_app = typer.Typer(no_args_is_help=True, help="Make pictures or vectors whose truth is known.")
models_app = typer.Typer(invoke_without_command=True, help="List, export and measure models.")
generations_app = typer.Typer(no_args_is_help=True, help="List, verify, promote, roll back and delete generations.")
operator_app = typer.Typer(no_args_is_help=True, help="The Kubernetes operator.")
app.add_typer(simulate_app, name="simulate")
app.add_typer(operator_app, name="operator")
app.add_typer(generations_app, name="generations")
app.add_typer(models_app, name="models")
app.add_typer(bench_app, name="bench")

out = Console()

IndexName = Annotated[str | None, typer.Option("--index", help="Name of the index; INDEX_NAME when not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value).decode() + "\n")


def main() -> None:
    """Runs a command; expected errors are one line on standard error and the error's exit status."""
    logs.configure()
    try:
        app()
    except SightlineError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


@app.command()
def index(
    source: Annotated[
        str,
        typer.Argument(help="A folder, s3://bucket/prefix, tar shards (x-{000..099}.tar), or a list (.csv, .parquet)."),
    ],
    index: IndexName = None,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Whether a verified result serves, or waits to be promoted.")
    ] = True,
    generation: Annotated[
        str | None, typer.Option(help="Id of a generation that workers fill together; `generations finish` ends it.")
    ] = None,
    shard_index: Annotated[int, typer.Option(help="Which part of the source this worker does, from 0.")] = 0,
    shard_count: Annotated[int, typer.Option(help="Into how many parts the workers divide the source.")] = 1,
) -> None:
    """Index pictures. Safe to interrupt and to run again: only what is new, changed or gone is touched.

    Exit status: 0 done, 75 something is away or busy (run it again), 65 the source or the request is at fault.
    """
    from indexing.command import run_index, run_shard
    from indexing.sharding import WHOLE, Shard

    shard = Shard(shard_index, shard_count)
    if generation is None:
        if shard != WHOLE:
            raise BadUserInput("Workers fill one generation together: give all of them the same --generation ID.")
        raise typer.Exit(run_index(source, index, promote=promote))
    raise typer.Exit(run_shard(source, shard, generation, index))


@app.command()
def serve() -> None:
    """Serve the search page, GraphQL and the probes on the indexes under INDEX_PATH."""
    from graphql_api.server import run

    run(settings())


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for, in words.")] = "",
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Find pictures like this one.")
    ] = None,
    first: Annotated[int, typer.Option(min=1, max=100, help="How many results.")] = 10,
    index: IndexName = None,
    as_json: AsJson = False,
) -> None:
    """Search in the terminal: through the server if one is running, else in the index itself."""
    from graphql_api.client import find

    found = asyncio.run(find(settings(), query, image, first, index))
    if as_json:
        _print_json(found)
        return
    table = Table("", "score", box=None, header_style="dim")
    table.add_column("picture", overflow="fold")
    table.add_column("caption")
    for hit in found["hits"]:
        caption = (hit["metadata"] or {}).get("caption", "")
        table.add_row(str(hit["rank"]), f"{hit['score']:.3f}", hit["filePath"], caption)
    out.print(table)
    out.print(f"[dim]{found['total']:,} pictures, {found['latencyMs']:.1f} ms[/dim]")


@app.command()
def score(
    image: Annotated[Path | None, typer.Argument(help="A picture.")] = None,
    text: Annotated[str | None, typer.Argument(help="What it may show.")] = None,
    source: Annotated[Path | None, typer.Option("--csv", help="CSV file with the columns image and text.")] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="CSV file to write: the same rows, score and error.")
    ] = None,
) -> None:
    """Say how well a picture and a text fit: the cosine of their embeddings, for one pair or a CSV file of them."""
    one, many = image is not None and text is not None, source is not None and target is not None
    if one == many:
        raise BadUserInput("Give a picture and a text, or --csv IN.csv and --out OUT.csv.")
    from engine.encoders.choice import load_encoder
    from indexing.scoring import Pair, score_csv
    from indexing.scoring import score as score_pairs

    encoder = load_encoder(settings())
    if source is not None and target is not None:
        rows, failed = score_csv(encoder, source, target, settings())
        out.print(
            f"{rows - failed:,} of {rows:,} pairs scored; {target} says why not for the others."
            if failed
            else f"{rows:,} pairs scored."
        )
        return
    (scored,) = score_pairs(encoder, [Pair(str(image), str(text))], settings())
    if scored.score is None:
        raise BadUserInput(f"{image}: {scored.error}")
    out.print(f"{scored.score:.4f}")


@app.command()
def evaluate(
    scenes: Annotated[bool, typer.Option("--scenes", help="Judge on drawn scenes, whose truth is known.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 1,
    count: Annotated[int, typer.Option(min=100, help="How many scenes.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Measure how well the model and the index find what is in the pictures."""
    if not scenes:
        raise typer.BadParameter("Only drawn scenes carry their truth: leave --scenes on.")
    from engine.encoders.choice import load_encoder
    from indexing.evaluation import evaluate_scenes

    encoder = load_encoder(settings())
    measured = evaluate_scenes(seed, count, encoder, settings())
    if as_json:
        _print_json(measured)
        return
    table = Table("measure", "value", box=None, header_style="dim")
    for name, value in measured.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    out.print(table)


@app.command()
def train(
    out_folder: Annotated[Path, typer.Option("--out", help="Checkpoints and the finished model.")] = Path(
        "data/training"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 2300,
    finish: Annotated[int, typer.Option(min=1, help="Batches after those that also teach likeness.")] = 400,
    scenes: Annotated[int, typer.Option(min=200, help="Different scenes to draw.")] = 100_000,
    batch: Annotated[int, typer.Option(min=2, help="Pictures a batch.")] = 192,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes; run again to go on.")] = None,
) -> None:
    """Train the small model on scenes drawn here. Safe to interrupt: it goes on at the last checkpoint."""
    from platformdirs import user_cache_path

    from indexing.training.trainer import Plan, Trainer

    plan = Plan(scenes=scenes, steps=steps, finish=finish, batch=batch, seed=seed)
    trainer = Trainer(plan, out_folder, user_cache_path("sightline") / "scenes", out.print)
    if trainer.run(minutes):
        trainer.export(out_folder / "sightline-small")
        out.print(f"Done. The model is in {out_folder / 'sightline-small'}.")
        out.print_json(orjson.dumps(asdict(trainer.judge(2_000))).decode())
    else:
        out.print(f"Stopped at step {trainer.step:,} of {plan.all_steps:,}. Run the same command to go on.")


@app.command()
def plan(  # noqa: PLR0913, PLR0917 - each is an option that a person may name
    images: Annotated[str, typer.Option(help="How many images, such as 100M.")],
    model: Annotated[str, typer.Option(help="CLIP_MODEL.")] = "ViT-H-14",
    p95: Annotated[str, typer.Option(help="95 % of searches take no longer.")] = "50ms",
    qps: Annotated[str, typer.Option(help="Searches a second, such as 1.5k.")] = "10",
    recall: Annotated[float, typer.Option(help="Share of the true nearest 10 that are found.")] = 0.98,
    gpu: Annotated[bool, typer.Option("--gpu/--cpu", help="Where models compute.")] = False,
    originals: Annotated[str, typer.Option(help="Where vectors in full precision lie: ram or disk.")] = "ram",
    repeated: Annotated[float, typer.Option(help="Share of searches that the cache answers.")] = 0.0,
    node: Annotated[str, typer.Option(help="Cores and gigabytes of a Qdrant node.")] = "16x64",
    as_json: AsJson = False,
) -> None:
    """Say what it takes to search so many images: nodes, memory, replicas, time. From laws that were measured."""
    from indexing.bench.laws import LawBook
    from indexing.capacity import plan as make
    from indexing.capacity_command import request_of, show

    made = make(request_of(images, model, p95, qps, recall, gpu, originals, repeated, node), LawBook.read())
    if as_json:
        _print_json(made.as_json())
    else:
        show(made, out)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Check the servers that QDRANT_URL, REDIS_URL and INDEX_DATABASE_URL name: can Sightline rely on them, why not?

    Works in places of its own with random names and removes them again; only the tables of PostgreSQL stay, as if it
    had been used. Exit status 1 when anything does not hold.
    """
    from engine.conformance.check import PARTS, Verdict, verdicts
    from indexing.conformance.postgresql import POSTGRESQL

    current = settings()
    parts = (*PARTS, POSTGRESQL)
    found: list[Verdict] = []

    async def run() -> None:
        for part in parts:
            if part.is_named(current):
                with Console(stderr=True).status(f"Checking {part.name}, which {part.setting} names"):
                    found.extend([verdict async for verdict in verdicts(part, current)])

    with logs.only("error"):  # what a part meets is told as a verdict
        asyncio.run(run())
    broken = [verdict for verdict in found if not verdict.holds]
    if as_json:
        _print_json({"holds": not broken, "checks": [asdict(verdict) for verdict in found]})
    else:
        table = Table("part", "check", "holds", "reason", box=None, header_style="dim")
        table.columns[3].overflow = "fold"
        for verdict in found:
            table.add_row(
                verdict.part, verdict.check, "yes" if verdict.holds else "[red]no[/red]", Text(verdict.reason)
            )
        if found:
            out.print(table)
            out.print(f"{len(found) - len(broken)} of {len(found)} hold.")
        else:
            out.print("Nothing to check: everything is embedded, and needs no other program.")
        for part in parts:
            if not part.is_named(current):
                out.print(f"{part.setting} is empty, so {part.embedded}. It names {part.name} in production.")
    raise typer.Exit(1 if broken else 0)


@app.command("settings")
def show_settings() -> None:
    """Print every setting: its variable, value, unit and reason."""
    values = settings()
    table = Table("variable", "value", "default", "meaning", show_lines=True)
    for name, field in Settings.model_fields.items():
        table.add_row(name.upper(), str(getattr(values, name)), str(field.default), field.description)
    out.print(table)


@operator_app.command("run")
def run_operator() -> None:
    """Look after the ImageIndexes of a Kubernetes cluster: of the pod's own, or of the one in KUBECONFIG."""
    from imageindex_operator.handlers import run

    logs.configure(settings().log_level)
    run(settings())


# ---------------------------------------------------------------- simulate


@simulate_app.command("scenes")
def simulate_scenes(
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder to write into.")],
    seed: Annotated[int, typer.Option(help="Seed: the same pictures on every machine.")] = 1,
    size: Annotated[int, typer.Option(min=64, max=2048, help="Side of the pictures in pixels.")] = 512,
) -> None:
    """Draw pictures of known things, with a JSON line about each beside them."""
    from indexing.scenes.dataset import write_scenes

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("Drawing", total=count)
        write_scenes(count, seed, folder, size, lambda there, _all: bar.update(task, completed=there))


@simulate_app.command("vectors")
def simulate_vectors(
    count: Annotated[int, typer.Option(min=1, help="How many vectors.")],
    dim: Annotated[int | None, typer.Option(min=8, max=4096, help="Their dimension; 1024 when not given.")] = None,
    seed: Annotated[int, typer.Option(help="Seed: the same vectors on every machine.")] = 1,
    index: IndexName = None,
    for_model: Annotated[
        bool, typer.Option("--for-model", help="As CLIP_MODEL and CLIP_PRETRAINED would have made them.")
    ] = False,
) -> None:
    """Fill an index with unit vectors in 8 categories, spread as real embeddings are.

    With --for-model searches in words work on them: they are what the model says of captions, and a little beside.
    """
    if for_model and dim is not None:
        raise BadUserInput("The model decides the dimension of its vectors. Leave --dim out.")
    from indexing.simulate import simulate_images
    from indexing.simulate import simulate_vectors as simulate

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("Starting", total=count)

        def show(stage: str, written: int, _all: int) -> None:
            bar.update(task, description=stage.capitalize(), completed=written)

        name, current = index or settings().index_name, settings()
        if for_model:
            from engine.encoders.choice import load_encoder

            asyncio.run(simulate_images(count, load_encoder(current), seed, name, current, show))
        else:
            asyncio.run(simulate(count, dim or 1024, seed, name, current, show))


# ---------------------------------------------------------------- models


@models_app.callback()
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models that CLIP_MODEL and CLIP_PRETRAINED can name."""
    if context.invoked_subcommand is not None:
        return
    from engine import models

    known = models.list_models()
    if as_json:
        _print_json([asdict(model) for model in known])
        return
    table = Table("CLIP_MODEL", "CLIP_PRETRAINED", "on this machine", box=None, header_style="dim")
    for model in known:
        table.add_row(model.name, model.pretrained or "(leave empty)", "yes" if model.local else "")
    out.print(table)


@models_app.command()
def export(
    folder: Annotated[Path | None, typer.Option("--out", help="Folder for the files; CLIP_EXPORTS without it.")] = None,
) -> None:
    """Export CLIP_MODEL for servers without PyTorch, which then need only the folder as their CLIP_PRETRAINED."""
    from engine.encoders.choice import export_model
    from engine.encoders.exported import place_of

    exported = export_model(settings(), folder or place_of(settings()))
    size = sum(file.stat().st_size for file in exported.folder.iterdir())
    out.print(f"{exported.info.name} is in {exported.folder}, {size / 1e6:,.0f} MB. On a server without PyTorch set:")
    out.print(f"CLIP_MODEL={exported.info.name}\nCLIP_PRETRAINED={exported.folder.absolute()}", soft_wrap=True)


@models_app.command("bench")
def bench_models(
    timeout_s: Annotated[float, typer.Option(help="Seconds after which one way to run it is given up.")] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Measure every way to run CLIP_MODEL on this machine, with what each loses, and recommend one."""
    from indexing.bench.variants import run

    print_report(run(settings(), timeout_s=timeout_s), as_json=as_json)


# ---------------------------------------------------------------- generations


def _on_generations(index: str | None, work: Callable[[Generations], Awaitable[T]], *, patience_s: float = 0.0) -> T:
    """What `work` makes of an index's generations, wherever they are kept."""
    from engine.generations import generations_of

    async def run() -> T:
        async with generations_of(settings(), index or settings().index_name, patience_s=patience_s) as store:
            return await work(store)

    return asyncio.run(run())


@generations_app.command("list")
def list_generations(index: IndexName = None, as_json: AsJson = False) -> None:
    """List an index's generations; the serving one is marked."""

    async def read(store: Generations) -> list[dict[str, Any]]:
        serving = await store.current_id()
        return [
            {
                "id": g.id,
                "state": g.state,
                "serving": g.id == serving,
                "model": g.model.name,
                "points": g.points,
                "createdAt": g.created_at,
                "held": g.held if g.id != serving else None,
            }
            for g in await store.list()
        ]

    rows = _on_generations(index, read)
    if as_json:
        _print_json(rows)
        return
    table = Table("", "generation", "state", "images", "model", box=None, header_style="dim")
    for row in rows:
        mark = "→" if row["serving"] else ""
        table.add_row(mark, *(str(row[key] or "") for key in ("id", "state", "points", "model")))
    out.print(table)
    for row in rows:
        if row["held"]:
            out.print(f"{row['id']} is not promoted: {row['held']}", highlight=False)


@generations_app.command("finish")
def finish_generation(
    generation: str,
    index: IndexName = None,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Whether a verified result serves, or waits to be promoted.")
    ] = True,
) -> None:
    """Complete a generation that workers filled: check, optimize and verify it, and promote it.

    Exit status: 0 done, 75 shards are not done or something is away or busy, 65 it is not fit to serve.
    """
    from indexing.command import run_finish

    raise typer.Exit(run_finish(generation, index, promote=promote))


@generations_app.command()
def promote(generation: str, index: IndexName = None) -> None:
    """Make a generation the serving one, in one atomic switch."""
    _on_generations(index, lambda store: store.promote(generation), patience_s=PATIENCE_S)
    out.print(f"{generation} serves.")


@generations_app.command()
def rollback(index: IndexName = None) -> None:
    """Go back to the generation that served before."""
    serving = _on_generations(index, lambda store: store.rollback(), patience_s=PATIENCE_S)
    out.print(f"{serving.id} serves again.")


@generations_app.command()
def verify(
    generation: Annotated[str | None, typer.Argument(help="Its id; the newest complete one when not given.")] = None,
    index: IndexName = None,
    as_json: AsJson = False,
) -> None:
    """Ask whether a generation is fit to serve: are its pictures there, are the nearest found, do canaries sing.

    Exit status 1 when it is not. On the embedded engine, one that a server has open can't be asked.
    """
    from indexing.verification_command import verify_generation

    id_, found = asyncio.run(verify_generation(settings(), index or settings().index_name, generation))
    if as_json:
        _print_json({"generation": id_, "holds": found.holds, **asdict(found)})
    else:
        recall = "nothing" if found.recall is None else f"{found.recall:.3f} of {found.asked} {found.by}"
        out.print(
            f"{id_}: {found.points:,} of {found.expected:,} pictures; recall@10 {recall}; {found.canaries} canaries"
        )
        for failure in found.failures:
            out.print(Text(f"Not fit to serve: {failure}."))
    if not found.holds:
        raise typer.Exit(1)


@generations_app.command()
def tune(
    generation: Annotated[str | None, typer.Argument(help="Its id; the newest complete one when not given.")] = None,
    index: IndexName = None,
    min_recall: Annotated[float, typer.Option(min=0, max=1, help="The recall@10 to hold.")] = 0.98,
    report: Annotated[Path | None, typer.Option("--out", help="File to write the result to, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the least SEARCH_EF, and so the quickest, that holds a recall in a generation.

    Exit status 65 when none does. On the embedded engine, a generation that a server has open can't be asked.
    """
    from indexing.verification_command import tune_generation

    tuned = asyncio.run(tune_generation(settings(), index or settings().index_name, generation, min_recall))
    if report:
        report.write_bytes(orjson.dumps(asdict(tuned), option=orjson.OPT_NON_STR_KEYS))
    if as_json:
        sys.stdout.write(orjson.dumps(asdict(tuned), option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
        return
    for ef, found in tuned.measured.items():
        out.print(f"SEARCH_EF={ef}: recall@10 {found:.4f}{' <- the least that holds' if ef == tuned.ef else ''}")


@generations_app.command()
def prune(
    keep: Annotated[
        int | None, typer.Option(min=1, help="Complete generations to keep; INDEX_KEEP_GENERATIONS when not given.")
    ] = None,
    index: IndexName = None,
) -> None:
    """Delete complete generations but the newest, and thumbnails that none has; the serving one always stays."""
    from indexing.pruning import prune as put_away

    index_name, kept = index or settings().index_name, keep or settings().index_keep_generations
    pruned = asyncio.run(put_away(settings(), index_name, kept))
    for generation in pruned.generations:
        out.print(f"{generation.id} is deleted.")
    if pruned.thumbnails:
        out.print(f"{pruned.thumbnails:,} thumbnails that belonged to no generation are deleted.")
    if not (pruned.generations or pruned.thumbnails):
        out.print("Nothing to delete.")


if __name__ == "__main__":
    main()
