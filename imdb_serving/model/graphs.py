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


def labels_in_graph(path: Path) -> tuple[str, ...]:
    """Return the classes' names that a classifier of scikit-learn has in its ONNX graph, if there is one."""
    for node in load_graph(path).graph.node:
        for one in node.attribute:
            if one.name in {"classlabels_strings", "classes_strings", "classlabels_ints", "classlabels_int64s"}:
                texts = tuple(text.decode("utf-8", "replace") for text in one.strings)
                return texts or tuple(map(str, one.ints))
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
