"""`imdb-serving import`: a model that was not trained here, from its files to a bundle that every command takes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from imdb_serving.cli import group

TEXTS = 28
"""So many real texts the model is tried on."""


def import_model(
    model: Path,
    out: Path,
    *,
    tokenizer: Path | None,
    labels: str,
    inputs: dict[str, Any],
    output: str,
    output_is: str,
    pad_id: int | None,
    unknown_id: int | None,
    max_length: int,
    data: Path | None,
    text_column: str,
) -> None:
    """Import, and print what was found."""
    from imdb_serving.engines.importing import Options, import_model, told
    from imdb_serving.engines.registry import engines_of
    from imdb_serving.model.drafts import Told
    from imdb_serving.text.drawing import texts_of
    from imdb_serving.text.rows import Columns, TextFile, checksum

    names = tuple(name.strip() for name in labels.split(",")) if labels else ()
    unknown = -1 if unknown_id is None else unknown_id
    options = Options(tokenizer, names, Told(inputs, output, output_is), pad_id, unknown, max_length)
    file = TextFile(data, Columns(text_column), checksum(data)) if data else None
    texts = texts_of(file, TEXTS, 2020)
    print(f"trying {model} on {TEXTS} texts of {data or 'the packaged reviews'}", file=sys.stderr)
    bundle = import_model(model, out, options, texts)
    for name, words in told(bundle.card).items():
        print(f"{name:<24}{words}")
    engine = engines_of(bundle.card)[0]
    print(f"wrote {bundle.folder}; serve it: imdb-serving serve {shlex.quote(str(out))} --engine {engine}",
          file=sys.stderr)  # fmt: skip


class _Role(click.ParamType[tuple[str, str]]):
    """An input's name and role, as NAME=ROLE."""

    name = "role"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Return both."""
        from imdb_serving.model.signature import ROLES

        name, sign, role = value.rpartition("=")
        if not sign or not name or role not in ROLES:
            self.fail(f"{value!r}: expected NAME=ROLE, where ROLE is one of {', '.join(ROLES)}", param, ctx)
        return name, role


@group.command("import")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Hugging Face tokenizer.json, or a vocabulary with a word a line. Default: the one beside MODEL.",
)
@click.option("--labels", default="", metavar="A,B", help="The classes' names, in the order of the model's output.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The bundle's folder. Default: MODEL's name below outputs/models.",
)
@click.option(
    "--input",
    "inputs",
    type=_Role(),
    multiple=True,
    metavar="NAME=ROLE",
    help="What an input is: ids, mask, additive_mask, types, positions, lengths or text.",
)
@click.option("--output", default="", metavar="NAME", help="The output that holds the classes.")
@click.option(
    "--output-is",
    type=click.Choice(["probabilities", "logits", "probability", "logit"]),
    default=None,
    help="What that output holds.",
)
@click.option("--pad-id", type=click.IntRange(min=0), help="The id of padding.")
@click.option("--unknown-id", type=click.IntRange(min=0), help="The id of a word that the vocabulary lacks.")
@click.option(
    "--max-length",
    type=click.IntRange(min=0),
    default=0,
    help="The most ids of a text; more are cut.",
    show_default="what the model takes",
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of your texts to try it on. Default: reviews.",
)
@click.option("--text-column", default="", help="The column of --data that has the text.")
def import_(model: Path, out: Path | None, inputs: tuple[tuple[str, str], ...], output_is: str | None,
            **options: Any) -> None:  # fmt: skip
    """Make a bundle of a model of your own, which every command, notebook and engine takes.

    MODEL is an ONNX file, a Paddle inference model, or a Paddle Serving folder. It is run on reviews to find out what
    its files do not say. What cannot be found out is asked for by the option that says it.

    \b
    Example:
      imdb-serving import model.onnx --tokenizer tokenizer.json --labels negative,positive --out mine
    """
    from imdb_serving.config import project_root

    out = out or project_root() / "outputs" / "models" / (model.stem or model.resolve().name)
    import_model(model, out, inputs=dict(inputs), output_is=output_is or "", **options)
