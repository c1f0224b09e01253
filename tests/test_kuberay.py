"""The manifest for KubeRay has the fields that its operator knows, with values that make sense together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

MANIFEST = Path(__file__).parents[1] / "docs" / "kuberay.yaml"
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}


def of(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with no other fields than these."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXT, COUNT, TEXTS = {"type": "string"}, {"type": "integer", "minimum": 0}, {
    "type": "object", "additionalProperties": {"type": "string"},
}  # fmt: skip
AMOUNTS = of([], cpu=QUANTITY, memory=QUANTITY)
CONTAINER = of(
    ["name", "image"],
    name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"},
    image=TEXT,
    env={"type": "array", "items": of(["name"], name=TEXT, value=TEXT)},
    ports={"type": "array", "items": of(["containerPort"], containerPort=COUNT, name=TEXT)},
    resources=of([], requests=AMOUNTS, limits=AMOUNTS),
)
TERM = of(["topologyKey"], labelSelector=of([], matchLabels=TEXTS), topologyKey=TEXT)
ANTI = of([], requiredDuringSchedulingIgnoredDuringExecution={"type": "array", "items": TERM})
POD = of(
    ["spec"],
    metadata=of([], labels=TEXTS, annotations=TEXTS),
    spec=of(
        ["containers"],
        affinity=of([], podAntiAffinity=ANTI),
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        hostNetwork={"type": "boolean"},
        nodeSelector=TEXTS,
    ),
)
# What RayClusterSpec, HeadGroupSpec and WorkerGroupSpec of KubeRay's API ray.io/v1 require and allow, as far as it is
# used here; `rayStartParams` are texts, numbers among them.
CLUSTER = of(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayCluster"},
    metadata=of(["name"], name=TEXT, namespace=TEXT, labels=TEXTS),
    spec=of(
        ["headGroupSpec"],
        rayVersion=TEXT,
        enableInTreeAutoscaling={"type": "boolean"},
        headGroupSpec=of(
            ["rayStartParams", "template"], serviceType=TEXT, rayStartParams=TEXTS, template=POD,
        ),
        workerGroupSpecs={
            "type": "array",
            "items": of(
                ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, numOfHosts=COUNT,
                rayStartParams=TEXTS, template=POD,
            ),
        },
    ),
)  # fmt: skip


@pytest.fixture
def manifest() -> Any:
    return yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))


def test_the_manifest_has_the_fields_of_the_api(manifest: Any) -> None:
    jsonschema.validate(manifest, CLUSTER)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda spec: spec["headGroupSpec"].pop("template"),
        lambda spec: spec["workerGroupSpecs"][0].pop("groupName"),
        lambda spec: spec["workerGroupSpecs"][0].update({"replicas": "3"}),
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"].pop("containers"),
    ],
)
def test_the_check_is_one(manifest: Any, wrong: Any) -> None:
    wrong(manifest["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, CLUSTER)


def test_a_pod_has_whole_cores_to_itself_and_ray_is_told_of_them(manifest: Any) -> None:
    (group,) = manifest["spec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["cpu"] == group["rayStartParams"]["num-cpus"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    labels = group["template"]["metadata"]["labels"]
    (term,) = group["template"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert manifest["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_ray_is_of_a_version_that_the_extra_allows(manifest: Any) -> None:
    from packaging.requirements import Requirement

    project = (MANIFEST.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^ray = .*"(ray\[client\].+)"\]$', project, re.MULTILINE)
    assert found
    assert manifest["spec"]["rayVersion"] in Requirement(found[1]).specifier
