"""The chart, as Helm's own library installs it: into a stand-in for a cluster, whose objects are then validated."""

import asyncio
import importlib
import json
import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy import __version__
from proxy.settings import Settings
from tests.deploy import cluster
from tests.deploy.settings import settings_of

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("helm-sdkpy is published for Linux on x86-64 only", allow_module_level=True)
helm_sdkpy: Any = importlib.import_module("helm_sdkpy")

CHART = Path(__file__).parents[2] / "deploy" / "helm"
OLDEST, NEWEST = "1.30.0", "1.37.0"
Objects = dict[str, dict[str, Any]]
Install = Callable[..., Objects]

EVERYTHING = {
    "image": {"repository": "registry.test/proxy", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "env": {"PROXY_JOBS__DEADLINE_S": 300, "PROXY_CHAT__STRICT_HISTORY": True},
    "config": {
        "proxyToml": "[chat]\n# {{ not a template }}\nmax_tools = 7\n",
        "modelsToml": (CHART.parents[1] / "config" / "models.toml").read_text("utf-8"),
    },
    "autoscaling": {"minReplicas": 3},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "networkPolicy": {"from": [{"namespaceSelector": {}}], "egressPorts": [443]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboard": {"enabled": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "inference"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
LEAST = {
    "autoscaling": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs the chart with some values; gives what was created, by kind."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(values: dict[str, Any], version: str = NEWEST, release: str = "proxy") -> Objects:
        with cluster.serve(version) as here:
            helm = helm_sdkpy.Configuration("inference", here.kubeconfig(tmp_path))
            asyncio.run(helm_sdkpy.Install(helm).run(release, str(CHART), values, wait=False, timeout=60))
            kinds = Counter(each["kind"] for each in here.created)
            assert set(kinds.values()) == {1} or kinds["ConfigMap"] == 2
            return {each["kind"]: each for each in here.created}

    return run


def pod(objects: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


def variables(objects: Objects) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod(objects)["containers"][0]["env"]}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", [{}, EVERYTHING, LEAST], ids=["default", "everything", "least"])
def test_every_object_is_one_that_kubernetes_accepts(install: Install, values: dict[str, Any], version: str) -> None:
    objects = install({"existingSecret": "narrative", **values}, version)
    for kind, each in objects.items():
        if kind != "ServiceMonitor":  # the Prometheus Operator's
            kubernetes_validate.validate(each, version.rpartition(".")[0], strict=True)
    named = {"Deployment", "Service", "ServiceAccount"}
    if values is not LEAST:
        named |= {"HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget"}
    if values is EVERYTHING:
        named |= {"ConfigMap", "ServiceMonitor"}
    assert objects.keys() == named


def test_the_validation_notices_what_is_wrong(install: Install) -> None:
    deployment = install({"existingSecret": "narrative"})["Deployment"]
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST.rpartition(".")[0], strict=True)


def test_pods_run_with_few_rights(install: Install) -> None:
    objects = install({"existingSecret": "narrative"})
    [container] = pod(objects)["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod(objects)["securityContext"]["runAsNonRoot"] is True
    assert pod(objects)["securityContext"]["runAsUser"] == 10001  # the image's
    assert pod(objects)["automountServiceAccountToken"] is False
    assert pod(objects)["enableServiceLinks"] is False


def test_secrets_are_referred_to_and_settings_are_settings(install: Install) -> None:
    objects = install({"existingSecret": "narrative", **EVERYTHING})
    [container] = pod(objects)["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "narrative"}}]
    environ = variables(objects)
    mounted = {name: environ.pop(name) for name in ("PROXY_CONFIG", "PROXY_CHAT__MODELS_FILE")}
    assert set(mounted.values()) == {f"/etc/narrative-proxy/{name}" for name in ("proxy.toml", "models.toml")}
    settings = settings_of(environ)
    assert settings.jobs.deadline_s == 300
    assert settings.chat.strict_history is True


def test_a_pod_has_ten_seconds_more_than_it_takes_to_stop(install: Install) -> None:
    for values, delay, grace in (({}, 5, 30), ({"drainDelaySeconds": 7, "shutdownGraceSeconds": 60}, 7, 60)):
        objects = install({"existingSecret": "narrative", **values})
        [container] = pod(objects)["containers"]
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == delay
        assert settings_of(variables(objects)).server.shutdown_grace_s == grace
        assert pod(objects)["terminationGracePeriodSeconds"] == delay + grace + 10


def test_everything_selects_the_same_pods(install: Install) -> None:
    objects = install({"existingSecret": "narrative", **EVERYTHING})
    [container] = pod(objects)["containers"]
    selector = objects["Deployment"]["spec"]["selector"]
    assert set(selector["matchLabels"]) == {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
    }  # never to be changed
    assert selector["matchLabels"].items() <= objects["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert objects["Service"]["spec"]["selector"] == selector["matchLabels"]
    assert objects["PodDisruptionBudget"]["spec"]["selector"] == selector
    assert objects["NetworkPolicy"]["spec"]["podSelector"] == selector
    [opened] = objects["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    [served], [forwarded] = container["ports"], objects["Service"]["spec"]["ports"]
    assert opened["port"] == forwarded["targetPort"] == served["name"]
    assert served["containerPort"] == Settings().server.port
    monitored = objects["ServiceMonitor"]["spec"]
    assert monitored["selector"]["matchLabels"].items() <= objects["Service"]["metadata"]["labels"].items()
    assert monitored["endpoints"][0]["port"] == objects["Service"]["spec"]["ports"][0]["name"]
    scaled = objects["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    assert scaled == objects["Deployment"]["metadata"]["name"]
    assert "replicas" not in objects["Deployment"]["spec"]  # else every upgrade would undo the scaling


def test_the_image_is_named_by_digest_or_by_the_version(install: Install) -> None:
    by_tag = pod(install({"existingSecret": "narrative"}))["containers"][0]["image"]
    assert by_tag == f"narrative-chat-proxy:{__version__}"
    by_digest = pod(install({"existingSecret": "narrative", **EVERYTHING}))["containers"][0]["image"]
    assert by_digest == f"registry.test/proxy@sha256:{'0' * 64}"


def test_a_configuration_is_mounted_as_it_is_and_a_change_of_it_restarts_the_pods(install: Install) -> None:
    def deployed(text: str) -> tuple[str, str]:
        objects = install({"existingSecret": "narrative", "config": {"proxyToml": text}})
        annotations = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        return objects["ConfigMap"]["data"]["proxy.toml"], annotations["checksum/config"]

    text, other = EVERYTHING["config"]["proxyToml"], "[chat]\nmax_tools = 8\n"  # type: ignore[index]
    assert deployed(text)[0].strip() == text.strip()
    assert deployed(text)[1] != deployed(other)[1]


def test_long_names_of_releases_are_cut(install: Install) -> None:
    for each in install({"existingSecret": "narrative", **EVERYTHING}, release="r" * 53).values():
        assert len(each["metadata"]["name"]) <= 63


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"existingSecret": ""}, "existingSecret"),
        ({"shutdownGrace": 10}, "shutdownGrace"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"service": {"port": 0}}, "port"),
        ({"env": {"NOT A NAME": "1"}}, "NOT A NAME"),
        ({"autoscaling": {"minReplicas": "two"}}, "minReplicas"),
    ],
)
def test_wrong_values_are_refused_by_name(install: Install, values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm_sdkpy.InstallError, match=named):
        install({"existingSecret": "narrative", **values})


def test_a_cluster_that_is_too_old_is_refused(install: Install) -> None:
    with pytest.raises(helm_sdkpy.InstallError, match=r"1\.30"):
        install({"existingSecret": "narrative"}, "1.29.9")


def test_the_schema_knows_every_value_and_the_chart_has_the_proxys_version() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert values.keys() == schema["properties"].keys() - {"global"}
    for name, value in values.items():
        known = schema["properties"][name].get("properties")
        assert known is None or value.keys() == known.keys()
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == __version__
