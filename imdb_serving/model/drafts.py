"""From what a graph says of its inputs and outputs to a signature, as far as names and shapes tell it.

What they leave open is asked for by the option's name, or left to trials on texts (`engines/trials.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from imdb_serving.errors import BundleError, did_you_mean
from imdb_serving.model.ports import Port, Ports
from imdb_serving.model.signature import Input, Role, Signature

BY_NAME: tuple[tuple[str, Role], ...] = (
    ("mask", "mask"), ("token_type", "types"), ("segment", "types"), ("type_id", "types"), ("sent_ids", "types"),
    ("label", "label"), ("len", "lengths"), ("pos", "positions"),
    ("input_id", "ids"), ("src_id", "ids"), ("word", "ids"), ("token", "ids"), ("ids", "ids"), ("input", "ids"),
)  # fmt: skip
"""Parts of names that tell what an input is, those that are within others' first."""

OF_ANSWERS = ("prob", "softmax", "prediction", "logit", "score", "output")
"""Parts of names of outputs that hold a class's share, the likeliest first."""

CLASS_ALONE = "the class itself and not how likely it is; export the model with the probabilities or logits"


class Told(msgspec.Struct, frozen=True):
    """What the user says of a model: the roles of inputs and the output by name, what it gives, and its length."""

    inputs: Mapping[str, Role] = {}
    output: str = ""
    gives: str = ""


def draft(ports: Ports, told: Told) -> Signature:
    """Return what the names and shapes of a graph say; raise `BundleError` naming the option for what they do not."""
    names = [one.name for one in ports.inputs]
    for name in told.inputs:
        if name not in names:
            raise BundleError(f"--input {name}: the model has no such input{did_you_mean(name, names)}")
    roles = _roles(ports.inputs, told.inputs)
    inputs = tuple(_input(port, roles[port.name]) for port in ports.inputs)
    lengths = {_fixed(port, one) for port, one in zip(ports.inputs, inputs, strict=True)} - {0}
    if len(lengths) > 1:
        raise BundleError(f"the inputs have different fixed lengths: {sorted(lengths)}; export them with one")
    return Signature(inputs, _output(ports.outputs, told.output).name, length=max(lengths, default=0))


def _roles(ports: Sequence[Port], told: Mapping[str, Role]) -> dict[str, Role]:
    roles: dict[str, Role] = dict(told)
    for port in ports:
        if port.name in roles:
            continue
        if port.kind == "string":
            roles[port.name] = "text"
        elif len(ports) == 1:
            roles[port.name] = "ids"
        else:
            roles[port.name] = _by_name(port)
    mains = [name for name, role in roles.items() if role in {"ids", "text"}]
    if len(mains) != 1:
        said = ", ".join(f"{name} ({roles[name]})" for name in roles)
        raise BundleError(
            f"expected one input for ids or text, found {len(mains)} of {said}; say which is what: --input NAME=ROLE"
        )
    return roles


def _by_name(port: Port) -> Role:
    found = next((role for part, role in BY_NAME if part in port.name.lower()), None)
    if found is None:
        raise BundleError(
            f"the input {port.name!r} ({port.kind} {_shown(port)}) can be anything; say what it is: "
            f"--input {port.name}=ids, or mask, types, lengths, positions, label"
        )
    if found == "mask" and port.kind.startswith("float") and port.shape is not None and len(port.shape) > 2:
        return "additive_mask"  # as attention adds it to its scores; trials tell whether that is so
    return found


def _input(port: Port, role: Role) -> Input:
    numeric = {"text": "string"}.get(role, port.kind or "int64")
    if role == "text" and port.kind != "string":
        raise BundleError(f"--input {port.name}=text: it holds {port.kind}, and no strings")
    if role == "ids" and not numeric.startswith(("int", "uint")):
        raise BundleError(f"the input {port.name!r} holds {port.kind}; ids are whole numbers, as int64 or int32")
    return Input(port.name, role, numeric, _axes(port, role), port.ragged)


def _axes(port: Port, role: Role) -> str:
    """Return how an input lies, by its rank and the extents that are one."""
    if port.ragged:
        return "L1"
    rank = 2 if port.shape is None else len(port.shape)
    if role in {"text", "lengths", "label"}:
        axes = {0: "", 1: "N", 2: "N1"}.get(rank)
    elif rank > 2:
        axes = _among_ones(port.shape or ())
    else:
        axes = {1: "L", 2: "NL"}.get(rank)
    if axes is None:
        raise BundleError(f"the input {port.name!r} has the shape {_shown(port)}, which no {role} can be laid out in")
    samples = (port.shape or ())[axes.index("N")] if port.shape and "N" in axes else 0
    if samples > 1:
        raise BundleError(f"the input {port.name!r} takes batches of {samples} only; export it with an open batch")
    return axes


def _among_ones(shape: Sequence[int]) -> str | None:
    """Return the axes of an input of rank 3 or 4: samples, places, and others of one."""
    if len(shape) == 3:
        return "NL1" if shape[2] == 1 else "N1L"
    return "N11L" if len(shape) == 4 else None


def _fixed(port: Port, one: Input) -> int:
    if one.ragged or "L" not in one.axes or port.shape is None:
        return 0
    extent = port.shape[one.axes.index("L")]
    return extent if extent > 1 else 0


def _shown(port: Port) -> str:
    return "of no known shape" if port.shape is None else str([extent or "?" for extent in port.shape])


def _is_class_alone(port: Port) -> bool:
    """Tell whether an output is the number or name of a class."""
    return port.kind.startswith(("int", "uint", "bool", "string"))


def _output(ports: Sequence[Port], told: str) -> Port:
    if told:
        found = next((port for port in ports if port.name == told), None)
        if found is None:
            names = [port.name for port in ports]
            raise BundleError(f"--output {told}: the model has no such output{did_you_mean(told, names)}")
        if _is_class_alone(found):
            raise BundleError(f"--output {told}: it holds {found.kind}, {CLASS_ALONE}")
        return found
    fit = [port for port in ports if port.kind == "maps" or port.kind.startswith("float")]
    named = [port for part in OF_ANSWERS for port in fit if part in port.name.lower()]
    if len(fit) == 1 or named:
        return (named or fit)[0]
    there = ", ".join(f"{port.name} ({port.kind} {_shown(port)})" for port in ports)
    if all(map(_is_class_alone, ports)):
        raise BundleError(f"the model gives {there}: {CLASS_ALONE}")
    raise BundleError(f"which output holds the classes? There is {there}; say it: --output NAME")
