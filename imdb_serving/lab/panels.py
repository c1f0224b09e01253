"""The live panels as HTML: numbers with their last half minute, stages, and words with their part. Draws; measures not.

They are drawn four times a second beside the load that they show, so they are a few hundred bytes of markup and no
figure. Colours are the notebook's own, so that a dark theme stays dark.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources

from imdb_serving.lab.live import HISTORY_SECONDS, Now, Point
from imdb_serving.lab.word_attribution import Explained, Word
from imdb_serving.messages import Reply
from imdb_serving.report.style import stage_colours

WIDTH, HEIGHT = 400, 34

STYLE = f"<style>{resources.files('imdb_serving.lab').joinpath('lab.css').read_text(encoding='utf-8')}</style>"

UP, DOWN = (0, 114, 178), (213, 94, 0)


def panel(title: str, body: str) -> str:
    """Return a titled panel."""
    return f'<div class="lab"><h4>{html.escape(title)}</h4>{body}</div>'


def message(words: str, alert: bool = False) -> str:
    """Return a message; an alert is one that a screen reader says at once."""
    kind = ' class="alert" role="alert"' if alert else ' class="small" role="status"'
    return f'<div class="lab"><div{kind}>{html.escape(words)}</div></div>'


def live(now: Now | None, history: Sequence[Point]) -> str:
    """Return the live numbers with their last half minute."""
    title = f"The last {HISTORY_SECONDS:.0f} s"
    if now is None:
        return panel(title, '<span class="small">nothing runs</span>')
    rates = [(point.age_s, point.throughput) for point in history]
    times = [(point.age_s, point.latency_ms) for point in history if point.latency_ms is not None]
    latency = " / ".join(_ms(value) for value in (now.p50_ms, now.p95_ms, now.p99_ms))
    body = (
        _number("reviews/s", f"{now.throughput:,.0f}", ""),
        sparkline(rates, "#0072B2", "reviews a second"),
        _number("p50 / p95 / p99", latency, "ms"),
        sparkline(times, "#D55E00", "p95 in ms"),
        _number("queue", "?" if now.queue is None else f"{now.queue:.1f}", "requests wait for a worker, on average"),
        _number("CPU server", _share(now.server), f"clients {now.clients:.0%}, of cores {now.cores:g}"),
        _cpu(now),
    )
    lost = f'<div class="alert" role="alert">{now.failures:,} requests got no answer: {html.escape(now.why)}</div>'
    return panel(title, "".join(body) + (lost if now.failures else ""))


def _number(name: str, value: str, more: str) -> str:
    return f'<div>{name} <span class="number">{value}</span> <span class="small">{html.escape(more)}</span></div>'


def _ms(value: float | None) -> str:
    return "..." if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.0%}"


def _cpu(now: Now) -> str:
    parts = ((now.server or 0.0, "#0072B2"), (now.clients, "#E69F00"))
    bars = "".join(f'<span style="width:{min(share, 1):.1%};background:{colour}"></span>' for share, colour in parts)
    return f'<span class="cpu" aria-hidden="true">{bars}</span>'


def sparkline(points: Sequence[tuple[float, float]], colour: str, what: str) -> str:
    """Return a sparkline of the last half minute, from 0 up, with its highest value."""
    if not points:
        return ""
    top = max(value for _, value in points) or 1.0
    places = " ".join(
        f"{WIDTH * (1 - min(age, HISTORY_SECONDS) / HISTORY_SECONDS):.1f},{HEIGHT - (HEIGHT - 12) * value / top:.1f}"
        for age, value in points
    )
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" style="height:{HEIGHT}px"'
    return (
        f'<svg {box} role="img" aria-label="{what}, highest {top:,.4g}">'
        f'<line class="axis" x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"/>'
        f'<polyline points="{places}" style="stroke:{colour}"/></svg>'
        f'<div class="top">highest {top:,.4g}</div>'
    )


def stages(now: Now | None) -> str:
    """Return a request's mean stages, one behind the other."""
    title = "Where a request's time goes, now"
    if now is None or not now.stages_us:
        return panel(title, '<span class="small">nothing runs</span>')
    return panel(title, waterfall(list(now.stages_us.items())))


ROOM = 0.11
"""From this share of a bar on a stage's name stands inside; the names of all are told on hover, and to a reader."""


def timeline(reply: Reply) -> str:
    """Return the stages of one request as one bar, each as long as it took."""
    times = [(stage.name, (stage.end_ns - stage.start_ns) / 1000) for stage in reply.stages]
    whole = sum(value for _, value in times) or 1.0
    colours = stage_colours([name for name, _ in times])
    parts = "".join(
        f'<span style="width:{value / whole:.2%};background:{colours[name]}" '
        f'title="{html.escape(name)}: {value:,.0f} µs">'
        f"{f'<b>{html.escape(name)}</b>' if value / whole >= ROOM else ''}</span>"
        for name, value in times
    )
    told = ", ".join(f"{name} {value:,.0f} µs" for name, value in times)
    return (
        f'<div class="life" role="img" aria-label="{html.escape(told)}">{parts}</div>'
        f'<div class="small">this request under the present load: {whole / 1000:.3g} ms, {html.escape(told)}</div>'
    )


def waterfall(times_us: Sequence[tuple[str, float]]) -> str:
    """Return a bar a stage, each beginning where the one before ends, with its time and share beside it."""
    shown = [(name, value) for name, value in times_us if value > 0]
    whole = sum(value for _, value in shown) or 1.0
    colours = stage_colours([name for name, _ in shown])
    rows, before = [], 0.0
    for name, value in shown:
        left, width = before / whole * 100, value / whole * 100
        before += value
        place = f"margin-left:{left:.2f}%;width:max(1px,{width:.2f}%);background:{colours[name]}"
        rows.append(
            f'<tr><td>{html.escape(name)}</td><td class="all"><span class="bar" style="{place}"></span></td>'
            f'<td class="small right">{value:,.0f} µs</td>'
            f'<td class="small right">{value / whole:.0%}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def explained(told: Explained) -> str:
    """Return a review's class, its words coloured by their part, and where the request's time went."""
    of = html.escape(told.of)
    strongest = max((abs(word.change) for word in told.words), default=0.0)
    words = " ".join(_word(word, strongest) for word in told.words)
    more = f' <span class="small">… and {told.more:,} more words</span>' if told.more else ""
    key = (
        f'<div class="small">▲ blue, underlined: makes it more {of} · ▼ orange, dashed: less · '
        "[brackets]: unknown to the model · hover for how much</div>"
    )
    head = f"<div role=status><b>{html.escape(told.likeliest)}</b>, probability of {of} {told.probability:.3f}</div>"
    return f'<div class="lab">{head}<div class="words">{words}{more}</div>{key}{timeline(told.reply)}</div>'


MARKED = 0.2
"""From this share of the strongest word's part on, a word is marked by more than its colour."""


def _word(word: Word, strongest: float) -> str:
    share = abs(word.change) / strongest if strongest > 0 else 0.0
    colour = UP if word.change > 0 else DOWN
    shown = html.escape(word.word if word.known else f"[{word.word}]")
    sign, kind = ("▲", "up") if word.change > 0 else ("▼", "down")
    marked = share >= MARKED
    style = f"background:rgba{(*colour, round(0.75 * share, 2))}" + (
        f";border-bottom-color:rgb{colour}" if marked else ""
    )
    return (
        f'<span class="{kind if marked else ""}" style="{style}" title="{word.change:+.3f}">'
        f"{sign if marked else ''}{shown}</span>"
    )
