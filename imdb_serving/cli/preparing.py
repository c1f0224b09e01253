"""`imdb-serving train`, `data`, `tune`, `doctor` and `keys`: what comes before serving."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import complete_engines
from imdb_serving.config import project_root
from imdb_serving.engines.registry import EngineSpec, engines_of
from imdb_serving.errors import BundleError, ConfigError, DataError
from imdb_serving.packages import require

if TYPE_CHECKING:
    from imdb_serving.engines.tuning import Result
    from imdb_serving.text import reviews
    from imdb_serving.text.formats import LineFormat
    from imdb_serving.text.reviews import Vocabulary


def write_data(samples: int, kind: LineFormat, out: Path, source: str, seed: int, vocab: Path | None) -> None:
    """Draw and write the lines, and say on standard error what was written."""
    from imdb_serving.text import reviews
    from imdb_serving.text.drawing import draw_lines
    from imdb_serving.text.tokenizers import WordTokenizer

    loaded = reviews.load(source)
    if samples > len(loaded.held_out):
        print(f"{samples} samples of {len(loaded.held_out)} held-out reviews: some are repeated", file=sys.stderr)
    vocabulary = _vocabulary(vocab, loaded) if kind == "ids" and loaded.held_out[0].words is None else None
    lines = draw_lines(loaded, kind, samples, seed, WordTokenizer(vocabulary) if vocabulary else None)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes("".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}") from error
    print(f"wrote {len(lines)} held-out reviews of {source} to {out} (format {kind}, seed {seed})", file=sys.stderr)


def _vocabulary(given: Path | None, source: reviews.Reviews) -> Vocabulary:
    """Return the vocabulary asked for, else the one of a model nearby, else the one that training would make."""
    from imdb_serving.model import SERVER_DIR, VOCABULARY
    from imdb_serving.text.drawing import training_vocabulary
    from imdb_serving.text.reviews import Vocabulary

    nearby = [Path(SERVER_DIR) / VOCABULARY, project_root() / "outputs" / "models" / "cnn" / SERVER_DIR / VOCABULARY]
    found = given or next((path for path in nearby if path.is_file()), None)
    if found:
        print(f"vocabulary: {found}", file=sys.stderr)
        return Vocabulary.load(found)
    print(f"vocabulary: made from the training reviews of {source.source}, as training does", file=sys.stderr)
    return training_vocabulary(source)


def train_model(net: str, epochs: int, seed: int, source: str, out: Path, *, if_missing: bool) -> None:
    """Train, write the bundle below `out`, and say what came of it. With `if_missing`, a sound bundle is kept."""
    from imdb_serving.model import CLIENT_DIR, PUBLISHED_CONF, SERVER_DIR
    from imdb_serving.text import reviews

    if if_missing and _is_sound(out, net):
        print(f"model: {out / SERVER_DIR} is there already", file=sys.stderr)
        return
    require("paddlepaddle")
    print(f"reading the reviews ({source})", file=sys.stderr)
    loaded = reviews.load(source)
    from imdb_serving.model.training import TrainingPlan, train_bundle

    plan = TrainingPlan(net=net, epochs=epochs, seed=seed)
    print(
        f"training {net} on {len(loaded.train)} reviews, {epochs} epochs; {len(loaded.held_out)} are held out",
        file=sys.stderr,
    )
    bundle = train_bundle(plan, loaded, out)
    print(f"accuracy on {bundle.card.held_out_reviews} unseen reviews: {bundle.card.accuracy:.4f}", file=sys.stderr)
    print(f"wrote {out / SERVER_DIR}, {out / CLIENT_DIR} and {out / PUBLISHED_CONF}", file=sys.stderr)


def _is_sound(out: Path, net: str) -> bool:
    from imdb_serving.model import SERVER_DIR
    from imdb_serving.model.bundle import open_bundle

    if not (out / SERVER_DIR).exists():
        return False
    card = open_bundle(out).card  # a damaged bundle is an error to look at, not to write over
    if card.net != net:
        raise BundleError(f"{out} holds a {card.net} model, not {net}; choose another --out")
    return True


HEAD = (
    f"{'engine':<12} {'variant':<10} {'reviews/s':>10}  {'lock':<8} {'held':>8}  {'workers':<9} {'a 2nd one':>9}  "
    "2 math threads"
)


def tune_model(model: Path, engines: tuple[str, ...], math_threads: int) -> None:
    """Measure every engine that runs this model, or those named; print a table."""
    from imdb_serving.engines import tuning
    from imdb_serving.model import TUNING
    from imdb_serving.model.bundle import open_bundle

    bundle = open_bundle(model)
    specs = [EngineSpec(name, math_threads) for name in engines or engines_of(bundle.card)]
    if standing_in := [spec.name for spec in specs if not spec.facts.needs_model]:
        raise ConfigError(f"{standing_in[0]} runs no model: there is nothing to tune")
    what = bundle.card.imported.source if bundle.card.imported else bundle.card.net
    print(f"{tuning.processor()}; {what}, {math_threads} math threads, one core")
    print(HEAD)
    for spec in specs:
        print(f"{spec.name} ...", end="\r", file=sys.stderr, flush=True)
        print("\n".join(_lines(spec, tuning.find_apart(spec, bundle, renew=True))))
    print(f"kept in {bundle.folder / TUNING}", file=sys.stderr)


def _lines(spec: EngineSpec, found: Result) -> list[str]:
    """Return a line a variant, the chosen one marked, with the engine's properties behind the first."""
    lines: list[str] = []
    for variant, speed in found.reviews_per_second.items():
        mark = "*" if variant == found.variant and len(found.reviews_per_second) > 1 else " "
        lines.append(f"{spec.name if not lines else '':<12} {variant or '-':<9}{mark} {speed:>10,.0f}")
    if found.probes:
        releases, cores = found.probes.releases_lock, found.probes.math_threads_cores
        held = "-" if found.probes.locked_us is None else f"{found.probes.locked_us:,.0f} us"
        lines[0] += f"  {'released' if releases else 'held':<8} {held:>8}  {spec.facts.worker_kind:<9}"
        lines[0] += (
            f" {found.probes.second_mb:>5.0f} MiB  {'one core here' if cores is None else f'{cores:.1f} cores busy'}"
        )
        if releases != spec.facts.releases_lock:
            lines.append(f"  unexpected: workers of {spec.name} are {spec.facts.worker_kind}s; try --worker-kind")
    return lines


SERVER, CLIENTS, TOKEN = "server", "clients", "http.token"


def make_keys(folder: Path, clients: tuple[str, ...]) -> None:
    """Make what is missing of a server's keys, and a pair for each client; print how they are used."""
    from imdb_serving.keys import SECRET, make_token, write_secret
    from imdb_serving.server.rpc.curve import make_key_pair

    known = folder / CLIENTS
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {known}: {error.strerror}") from error
    if not (folder / f"{SERVER}{SECRET}").exists():
        make_key_pair(folder, SERVER)
    if not (folder / TOKEN).exists():
        write_secret(folder / TOKEN, make_token() + "\n")
    for name in clients:
        _check(name)
        public, _ = make_key_pair(folder, name)
        write_secret(known / public.name, public.read_text(encoding="ascii"))
    print(_usage(folder, clients[0]))


def _check(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or name == SERVER:
        raise ConfigError(f"{name!r} cannot be a client's name: letters, digits, - and _, and not {SERVER!r}")


def _usage(folder: Path, client: str) -> str:
    from imdb_serving.keys import PUBLIC, SECRET

    return f"""{folder} holds the keys; what ends in {SECRET} or .token is secret and stays with its owner.
server:  imdb-serving serve MODEL --host 0.0.0.0 --server-key {folder / SERVER}{SECRET} --client-keys {folder / CLIENTS}
client:  imdb-serving client ... --client-key {folder / client}{SECRET} --server-public-key {folder / SERVER}{PUBLIC}
HTTP:    imdb-serving flask MODEL --host 0.0.0.0 --token-file {folder / TOKEN}
To refuse a client, remove its file from {folder / CLIENTS}."""


def run_doctor(net: str) -> None:
    """Print the card and the advice."""
    from imdb_serving.measurement.environment import advise, environment_card
    from imdb_serving.measurement.machine import present_state
    from imdb_serving.measurement.models import bundle_there

    card = environment_card(bundle_there(project_root() / "outputs" / "models" / net))
    for name, value in _plain(card).items():
        print(f"{name:<18}{value}")
    found = advise(card, present_state())
    print()
    print(f"{len(found)} things make measurements here worse:" if found else "Nothing is wrong with this machine.")
    for advice in found:
        print(f"- {advice.problem}\n    {advice.remedy}")


def _plain(card: dict[str, Any]) -> dict[str, str]:
    """Return a card's entries as one line each; what it does not know is left out."""
    lines = {}
    for name, value in card.items():
        if name == "packages":
            lines[name] = ", ".join(f"{package} {version}" for package, version in value.items() if version)
        elif name == "engines":
            found = [f"{engine} {what['variant']}".strip() for engine, what in value.items()]
            lines["kernels chosen"] = ", ".join(found) or "none yet"
        elif value not in ("", None):
            lines[name.replace("_", " ")] = str(value)
    return lines


@group.command()
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
    write_data(samples, kind, out, source, seed, vocab)


@group.command()
@click.option("--net", default="cnn", help="bow, cnn, lstm or gru.")
@click.option("--epochs", type=click.IntRange(min=1), default=2, help="Passes over the reviews; the best is kept.")
@click.option("--seed", type=int, default=2020, help="Decides the first weights and the order of the reviews.")
@click.option("--source", default="packaged", help="packaged, aclimdb:DIR, or a file of 'text | label' lines.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="The folder for the bundle."
)
@click.option("--if-missing", is_flag=True, help="Do nothing when the bundle exists already and is complete.")
def train(net: str, epochs: int, seed: int, source: str, out: Path, if_missing: bool) -> None:
    """Train a net and write the bundle: serving_server_model, serving_client_conf and inference.conf.

    \b
    Example:
      imdb-serving train --net cnn --out outputs/model
    """
    train_model(net, epochs, seed, source, out, if_missing=if_missing)


@group.command()
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
    tune_model(model, engines, math_threads)


@group.command()
@click.option("--net", default="cnn", help="The net whose model's engine variants are shown.")
def doctor(net: str) -> None:
    """Print what this machine is, and what is wrong with it for measuring, with what to do.

    \b
    Example:
      imdb-serving doctor
    """
    run_doctor(net)


@group.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--client", "clients", multiple=True, default=("client",), help="A client's name; may be given several times."
)
def keys(folder: Path, clients: tuple[str, ...]) -> None:
    """Make keys in FOLDER, for a server that admits known clients only, and print how they are used.

    CURVE keys for RPC over ZeroMQ, which is encrypted then, and a token for HTTP. A folder may get more clients later.

    \b
    Example:
      imdb-serving keys keys --client alice --client bob
    """
    make_keys(folder, clients)
