"""What the published tables say, in words for the report. Knows the analysis of them; measures nothing."""

from __future__ import annotations

from imdb_serving.bench.analysis import published, usl
from imdb_serving.bench.analysis.reference import SAMPLES
from imdb_serving.bench.analysis.reference import published as table_of


def in_words() -> str:
    """Return what the published RPC table says when it is read as ours are, a line a finding."""
    table = table_of("rpc")
    place, total = published.best_cell(table)
    shares = published.unexplained(table)
    lines = [
        f"Its best cell is {place.server_threads} server x {place.client_threads} client threads ({total:g} s), not "
        "the one with most threads.",
        f"Of what clients waited, {shares.min():.0%} to {shares.max():.0%} lies outside op0, op1 and op2, and is not "
        "explained.",
        *(
            f"A slip: {slip.column} of {slip.said:g} s at ({slip.place.server_threads}, {slip.place.client_threads}), "
            f"where every other cell makes it about {slip.expected:.2g}."
            for slip in published.slips(table)
        ),
        f"The text says {SAMPLES:,} samples: then op1 takes {published.op1_ms(table):.1f} ms a sample. IMDB's whole "
        f"test set of {published.IMDB_TEST_SET:,} would make it "
        f"{published.op1_ms(table, published.IMDB_TEST_SET):.1f} ms, which is what such a model takes.",
        _laws(published.laws(table)),
        "One run a cell: nothing says what is noise.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _laws(laws: dict[int, usl.Law | str]) -> str:
    """Say for which server counts the Universal Scalability Law describes the table, and for which it does not."""
    fitted = {servers: law for servers, law in laws.items() if isinstance(law, usl.Law)}
    fits = [f"{servers}" for servers, law in fitted.items() if law.fits]
    off = [f"{servers} ({law.residual:.0%} off)" for servers, law in fitted.items() if not law.fits]
    words = "The Universal Scalability Law "
    if not off:
        return f"{words}fits all server counts."
    of_some = f"fits {', '.join(fits)} server threads; it " if fits else ""
    return f"{words}{of_some}does not fit {', '.join(off)} server threads: nothing is to be extrapolated from them."
