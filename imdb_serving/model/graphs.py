"""ONNX files of others: read without their weights, and what else they say. Nothing in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imdb_serving.errors import BundleError

MOST_GRAPH_BYTES = 2 << 30
"""What protobuf reads at most, and so an ONNX file without its weights."""


def load_graph(path: Path) -> Any:
    """Return an ONNX graph without weights that lie in other files; raise `BundleError` for what is none."""
    import onnx  # noqa: PLC0415 - takes a tenth of a second

    try:
        if path.stat().st_size >= MOST_GRAPH_BYTES:
            raise BundleError(f"{path} has more than 2 GiB; keep its weights in a file beside it")
        return onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except BundleError:
        raise
    except Exception as error:  # protobuf's errors have no common base but this
        raise BundleError(f"{path} is no ONNX file: {error}") from error


def weights_beside(graph: Path) -> list[Path]:
    """Return the files beside a graph that hold its weights; raise `BundleError` for one that lies elsewhere."""
    names = set()
    for one in load_graph(graph).graph.initializer:
        names |= {entry.value for entry in one.external_data if entry.key == "location"}
    found = []
    for name in sorted(names):
        if Path(name).name != name or name.startswith("."):
            raise BundleError(f"{graph} has weights in {name!r}; they must lie beside it")
        if not (graph.parent / name).is_file():
            raise BundleError(f"{graph} has weights in {name}, which is not beside it")
        found.append(graph.parent / name)
    return found


LABELS = {"classlabels_strings", "classes_strings", "classlabels_ints", "classlabels_int64s"}
"""Attributes of classifiers and of the maps from names to probabilities."""


def labels_in_graph(path: Path, *, mapped: bool = False) -> tuple[str, ...]:
    """Return the classes' names that a classifier of scikit-learn has in its ONNX graph, if there is one.

    Where the output is `mapped`, from names to probabilities, they are in the maps' order.
    """
    import onnx  # noqa: PLC0415 - takes a tenth of a second

    graph = load_graph(path).graph
    weights = {one.name: one for one in graph.initializer}
    for node in reversed(graph.node):  # classifiers within others come before them
        names = [one for each in node.attribute if each.name in LABELS for one in [*each.strings, *each.ints]]
        if node.op_type == "ArrayFeatureExtractor":  # takes the name of the likeliest class out of all
            of_all = weights.get(node.input[0])
            if of_all is not None and not of_all.external_data:
                names = onnx.numpy_helper.to_array(of_all).ravel().tolist()
        if names:
            ordered = sorted(names) if mapped else names
            return tuple(one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in ordered)
    return ()


PLAIN_LOCALE = "C.UTF-8"


def name_locale(graph: Path, to: Path) -> bool:
    """Write an ONNX graph whose texts are lower-cased by the rules of Unicode; tell whether it has such operations.

    Left open, their locale is American English, which small machines and images do not have.
    """
    import onnx  # noqa: PLC0415 - takes a tenth of a second

    model = load_graph(graph)
    found = [node for node in model.graph.node if node.op_type == "StringNormalizer"]
    for node in found:
        kept = [one for one in node.attribute if one.name != "locale"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("locale", PLAIN_LOCALE)])
    to.write_bytes(model.SerializeToString())
    return bool(found)
