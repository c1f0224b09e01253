"""The engines as a table of facts: what each needs, and what it does to the interpreter lock.

Command line, parameters, grids and documents read this table, and no code elsewhere asks for an engine by its name. To
add one: a file beside this one, an entry here, and, if it reads a file of its own, that file in the bundle's export.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from imdb_serving.config import WorkerKind, engine_name
from imdb_serving.errors import BundleError, ConfigError, did_you_mean
from imdb_serving.model import CARD, ONNX, PROGRAM, find_server_dir
from imdb_serving.packages import install, is_installed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imdb_serving.engines.engine import Engine
    from imdb_serving.model.bundle import Bundle
    from imdb_serving.model.card import ModelCard


DISTRIBUTIONS = ("fixed", "exponential")
"""How the service times of `simulated` vary."""


class EngineFacts(NamedTuple):
    """What is known of an engine without loading it.

    `home` is `module:name` of a function or class that makes one from an `EngineSpec` and a `Bundle`. `file` is the
    bundle's file that it runs, empty for a stand-in, which needs no model. `nets` are those it can run, empty for all.
    `timed` engines take the service time they are told. One that `computes_in_threads` can use several math threads for
    an answer. `variants` are ways to run the same model, of which the fastest is found on the machine that serves
    (tuning.py); the `padded` ones are for models whose answers padding does not change.
    """

    name: str
    about: str
    home: str
    releases_lock: bool
    file: str = ""
    nets: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    timed: bool = False
    computes_in_threads: bool = False
    preload: tuple[str, ...] = ()

    @property
    def needs_model(self) -> bool:
        """True for an engine that computes, false for one that stands in."""
        return bool(self.file)

    @property
    def worker_kind(self) -> WorkerKind:
        """Threads for an engine that releases the interpreter lock while it runs, processes for one that holds it."""
        return "thread" if self.releases_lock else "process"


ENGINES: dict[str, EngineFacts] = {}
"""All engines by name, the published one first."""


def register(facts: EngineFacts) -> None:
    """Add an engine; raise `ConfigError` when its name is taken."""
    if facts.name in ENGINES:
        raise ConfigError(f"there is an engine {facts.name!r} already")
    ENGINES[facts.name] = facts


register(
    EngineFacts(
        "paddle",
        "Paddle's inference, as published",
        "imdb_serving.engines.paddle:make",
        releases_lock=False,
        file=PROGRAM,
        variants=("plain", "onednn", "onednn-32"),
        padded=("onednn-32",),
        packages=("paddlepaddle",),
        computes_in_threads=True,
        preload=("imdb_serving.engines.paddle",),
    )
)
register(
    EngineFacts(
        "onnxruntime",
        "ONNX Runtime",
        "imdb_serving.engines.onnxruntime:make",
        releases_lock=True,
        file=ONNX,
        packages=("onnxruntime",),
        computes_in_threads=True,
        preload=("imdb_serving.engines.onnxruntime",),
    )
)
register(
    EngineFacts(
        "folded",
        "the CNN's convolution folded into its word vectors",
        "imdb_serving.engines.folded:make",
        releases_lock=True,
        file=ONNX,
        nets=("cnn",),
        packages=("numba", "llvmlite", "onnx"),
        preload=("imdb_serving.engines.folded",),
    )
)
register(
    EngineFacts(
        "simulated",
        "sleeps a service time",
        "imdb_serving.engines.stand_ins:make_simulated",
        releases_lock=True,
        timed=True,
    )
)
register(EngineFacts("none", "answers at once", "imdb_serving.engines.stand_ins:make_none", releases_lock=True))


NOT_OURS = EngineFacts("", "of a server that is not ours", "", releases_lock=True)
"""In place of an engine, where a server runs one that is not known here."""


def facts_of(name: str) -> EngineFacts:
    """Return an engine's facts, `NOT_OURS` for no name; raise `ConfigError` with the nearest for an unknown one."""
    name = engine_name(name)
    if not name:
        return NOT_OURS
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}{did_you_mean(name, ENGINES)}")
    return ENGINES[name]


def engines_in_words() -> str:
    """Return the engines with what each is, for a help text."""
    return ", ".join(f"{facts.name} ({facts.about})" for facts in ENGINES.values())


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which engine to make, and how.

    Service times apply to `simulated`, where they are a request's. `variant` is one of the engine's; empty is the
    fastest on this machine.
    """

    name: str = "paddle"
    math_threads: int = 1
    service_time_ms: float = 5.0
    distribution: Literal["fixed", "exponential"] = "fixed"
    seed: int = 2020
    variant: str = ""

    def __post_init__(self) -> None:
        """Refuse what no engine can do."""
        object.__setattr__(self, "name", engine_name(self.name))
        variants = facts_of(self.name).variants
        if self.variant and self.variant not in variants:
            raise ConfigError(
                f"engine {self.name} has no variant {self.variant!r}{did_you_mean(self.variant, variants)}"
            )
        if self.math_threads < 1:
            raise ConfigError(f"math_threads must be at least 1, got {self.math_threads}")
        if self.distribution not in DISTRIBUTIONS:
            raise ConfigError(
                f"unknown distribution {self.distribution!r}{did_you_mean(self.distribution, DISTRIBUTIONS)}"
            )
        if not (math.isfinite(self.service_time_ms) and self.service_time_ms >= 0):
            raise ConfigError(f"service_time_ms must be a finite number of at least 0, got {self.service_time_ms}")

    @property
    def facts(self) -> EngineFacts:
        """What the registry says of this engine."""
        return facts_of(self.name)


def variants_of(facts: EngineFacts, card: ModelCard) -> tuple[str, ...]:
    """Return the ways in which an engine can run a model."""
    return tuple(name for name in facts.variants if card.pads or name not in facts.padded)


def why_not(name: str, card: ModelCard) -> str:
    """Return why an engine does not run a model; an empty text when it does."""
    if card.imported:
        missing = "it was not tried when the model was imported; import it again"
        return "" if name in card.imported.runs else card.imported.refused.get(name, missing)
    nets = facts_of(name).nets or (card.net,)
    return "" if card.net in nets else f"it runs {', '.join(nets)}, and the model is a {card.net}"


def engines_of(card: ModelCard) -> list[str]:
    """Return the engines that compute a model, in the table's order; stand-ins are not among them."""
    return _installed(name for name, facts in ENGINES.items() if facts.needs_model and not why_not(name, card))


def engines_of_imported(folder: Path) -> list[str]:
    """Return the engines that run the model in a folder, if it was imported; none where it was not, or has no card."""
    from imdb_serving.model.card import read_card  # noqa: PLC0415 - numpy, which a command's help does without

    try:
        card = read_card(find_server_dir(folder) / CARD)
    except BundleError:
        return []
    return engines_of(card) if card.imported else []


def engines_for(net: str) -> list[str]:
    """Return the engines that compute a net, in the table's order; stand-ins are not among them."""
    return _installed(name for name, facts in ENGINES.items() if facts.needs_model and net in (facts.nets or (net,)))


def _installed(names: Iterable[str]) -> list[str]:
    """Return the engines whose packages are installed; all, of which each says what it needs, where none is."""
    every = list(names)
    return [name for name in every if not missing_package(ENGINES[name])] or every


def check_net(name: str, net: str, where: str = "this model") -> None:
    """Raise `ConfigError`, naming engines that could, when an engine cannot run a net."""
    nets = facts_of(name).nets
    if nets and net not in nets:
        others = ", ".join(engines_for(net))
        raise ConfigError(
            f"the {name} engine runs {', '.join(nets)}, and {where} is a {net}; use another engine ({others})"
        )


def check_model(spec: EngineSpec, bundle: Bundle | None) -> None:
    """Raise `ConfigError` when the engine needs a model and has none, or cannot run it."""
    facts = spec.facts
    if not facts.needs_model:
        return
    if bundle is None:
        without = " or ".join(name for name, other in ENGINES.items() if not other.needs_model)
        raise ConfigError(f"the {spec.name} engine needs a model; give its folder, or use --engine {without}")
    if not bundle.card.imported:
        check_net(spec.name, bundle.card.net, str(bundle.folder))
    elif reason := why_not(spec.name, bundle.card):
        raise ConfigError(
            f"the {spec.name} engine cannot run {bundle.folder}: {reason}; "
            f"use another engine ({', '.join(engines_of(bundle.card))})"
        )


def missing_package(facts: EngineFacts) -> str:
    """Return the package that an engine needs and that is not installed; an empty text when it has all."""
    return next((name for name in facts.packages if not is_installed(name)), "")


def check_packages(spec: EngineSpec) -> None:
    """Raise `ConfigError` when the engine's package is not installed, naming engines whose is."""
    if missing := missing_package(spec.facts):
        others = ", ".join(name for name, facts in ENGINES.items() if facts.needs_model and not missing_package(facts))
        raise ConfigError(
            f"the {spec.name} engine needs the package {missing}: {install(missing)}"
            + (f", or use another engine ({others})" if others else "")
        )


def make_engine(spec: EngineSpec, bundle: Bundle | None) -> Engine:
    """Make an engine; raises `ConfigError` as `check_model` does, and when its package is not installed."""
    check_model(spec, bundle)
    check_packages(spec)
    module, _, name = spec.facts.home.partition(":")
    make: Any = getattr(import_module(module), name)
    engine: Engine = make(spec, bundle)
    return engine
