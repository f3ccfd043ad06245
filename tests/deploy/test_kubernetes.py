"""deploy/kubernetes.yaml is valid by Kubernetes' own schemas, and its numbers fit the gateway's."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from gateway_tools import FakeBackend, LocalGateway
from server import ROOT

from e5.gateway import GatewayLimits
from e5.settings import Settings

RESOURCES: list[dict[str, Any]] = list(
    yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8"))
)
BY_KIND = {resource["kind"]: resource for resource in RESOURCES}
POD = BY_KIND["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


def probes() -> Iterator[dict[str, Any]]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield CONTAINER[name]


@pytest.mark.parametrize("kind", BY_KIND)
@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_the_manifest_is_valid(kind: str, version: str) -> None:
    assert kubernetes_validate.validate(BY_KIND[kind], version, strict=True) == version


def test_a_misspelt_field_would_be_found() -> None:
    spoiled = BY_KIND["Service"] | {"spec": {"port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError, match="port"):
        kubernetes_validate.validate(spoiled, "1.37", strict=True)


def test_each_resource_is_there_once_and_they_find_each_other() -> None:
    assert len(BY_KIND) == len(RESOURCES) == 4
    labels = POD["metadata"]["labels"]
    deployment = BY_KIND["Deployment"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    assert BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == deployment["metadata"]["name"]
    (port,) = CONTAINER["ports"]
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert BY_KIND["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert {probe["httpGet"]["port"] for probe in probes()} == {port["name"]}
    volumes = {volume["name"] for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes


def test_a_pod_has_the_time_to_answer_what_it_accepted() -> None:
    environ = {item["name"]: item["value"] for item in CONTAINER["env"]}
    settings = Settings.from_env(environ)  # refuses what is no setting
    (pause,) = CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1:]
    needed = int(pause) + settings.drain_seconds + GatewayLimits().deadline_seconds + 30
    assert POD["spec"]["terminationGracePeriodSeconds"] >= needed
    assert settings.drain_seconds > Settings.drain_seconds


def test_the_gateway_has_the_routes_and_the_metric() -> None:
    gateway = LocalGateway(FakeBackend())
    for path in {probe["httpGet"]["path"] for probe in probes()}:
        assert gateway.get(path).status_code == 200
    (metric,) = BY_KIND["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"\n{name} " in gateway.get("/metrics").text


def test_the_pod_runs_as_nobody_on_a_read_only_root_with_one_gpu() -> None:
    assert POD["spec"]["securityContext"]["runAsNonRoot"] is True
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "tmp", "mountPath": "/tmp"} in CONTAINER["volumeMounts"]
    assert CONTAINER["resources"]["limits"]["nvidia.com/gpu"] == 1
