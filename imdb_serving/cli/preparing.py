"""The commands before all serving: data, models, keys, and what this machine is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imdb_serving.cli.options import complete_engines
from imdb_serving.commands import manual


@manual.command()
@click.option("--samples", type=click.IntRange(min=1), default=2500, help="How many reviews to write.")
@click.option("--format", "kind", type=click.Choice(["ids", "text"]), default="ids", help="The line format.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--source", default="packaged", help="packaged, aclimdb:DIR, or a file in a published line format.")
@click.option("--seed", type=int, default=2020, help="Decides which held-out reviews are drawn.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary for --format ids; default: the model's.")
def data(samples: int, kind: Any, out: Path, source: str, seed: int, vocab: Path | None) -> None:
    """Write held-out reviews to a file in one of the two published line formats.

    \b
    Example:
      imdb-serving data --samples 2500 --format ids --out test.data
    """
    from imdb_serving.commands.data import write_data

    write_data(samples, kind, out, source, seed, vocab)


@manual.command()
@click.option("--net", default="cnn", help="bow, cnn, lstm or gru.")
@click.option("--epochs", type=click.IntRange(min=1), default=2, help="Passes over the reviews; the best is kept.")
@click.option("--seed", type=int, default=2020, help="Decides the first weights and the order of the reviews.")
@click.option("--source", default="packaged", help="packaged, aclimdb:DIR, or a file of 'text | label' lines.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Where the bundle goes.")
@click.option("--if-missing", is_flag=True, help="Do nothing when a sound bundle of that net is there already.")
def train(net: str, epochs: int, seed: int, source: str, out: Path, if_missing: bool) -> None:
    """Train a net and write the bundle: serving_server_model, serving_client_conf and inference.conf.

    \b
    Example:
      imdb-serving train --net cnn --out outputs/model
    """
    from imdb_serving.commands.train import train_model

    train_model(net, epochs, seed, source, out, if_missing=if_missing)


@manual.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "engines",
    multiple=True,
    shell_complete=complete_engines,
    help="Only this one; may be given several times.",
)
@click.option("--math-threads", type=click.IntRange(min=1, max=1024), default=1, help="Threads inside one predictor.")
def tune(model: Path, engines: tuple[str, ...], math_threads: int) -> None:
    """Measure what each engine does with MODEL on this machine, and keep it beside the model.

    Servers then run the fastest variant of their engine, marked *. What was found holds for this processor and these
    library versions; anything else is measured anew when a server starts.

    \b
    Example:
      imdb-serving tune serving_server_model
    """
    from imdb_serving.commands.tune import tune_model

    tune_model(model, engines, math_threads)


@manual.command()
@click.option("--net", default="cnn", help="Whose model's kernels are told.")
def doctor(net: str) -> None:
    """Print what this machine is, and what is wrong with it for measuring, with what to do.

    \b
    Example:
      imdb-serving doctor
    """
    from imdb_serving.commands.doctor import run_doctor

    run_doctor(net)


@manual.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--client", "clients", multiple=True, default=("client",), help="A client's name; may be given several times."
)
def keys(folder: Path, clients: tuple[str, ...]) -> None:
    """Make keys in FOLDER, for a server that lets in those alone whom it knows, and print how they are used.

    CURVE keys for RPC over ZeroMQ, which is encrypted then, and a token for HTTP. A folder may get more clients later.

    \b
    Example:
      imdb-serving keys keys --client alice --client bob
    """
    from imdb_serving.commands.keys import make_keys

    make_keys(folder, clients)
