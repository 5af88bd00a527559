"""The dashboard asks for metrics and labels that the server has."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Deployment

DASHBOARD = Path(__file__).parents[2] / "deploy" / "helm" / "dashboards" / "narrative-proxy.json"
PANELS = [panel for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"], target["legendFormat"]) for panel in PANELS for target in panel["targets"]]
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OF_PROMETHEUS = {"job", "instance", "le"}


@pytest.fixture(scope="module")
def metrics(deployment: Deployment) -> dict[str, set[str]]:
    """Name of a series → its labels, of all that the server registers, whether or not it has counted anything yet."""
    found: dict[str, set[str]] = {"up": set()}
    for collector in deployment.app.state.metrics.registry._collector_to_names:
        for family in collector.describe():
            for ending in ENDINGS[family.type]:
                found[f"{family.name}{ending}"] = set(collector._labelnames)
    return found


def plain(query: str) -> str:
    """The query without Grafana's variables."""
    return query.replace("$__rate_interval", "1m").replace("$job", ".*")


@pytest.mark.parametrize(("title", "query", "legend"), QUERIES)
def test_every_query_is_promql_over_metrics_and_labels_that_there_are(
    metrics: dict[str, set[str]], title: str, query: str, legend: str
) -> None:
    assert promql_parser.parse(plain(query))
    selected = re.findall(r"([a-z_]+)\{([^}]*)\}", query)
    assert selected
    for name, matchers in selected:
        assert name in metrics, title
        assert set(re.findall(r"([a-z]+)[=!]~?\"", matchers)) <= metrics[name] | OF_PROMETHEUS
    used = set(re.findall(r"[a-z]+", " ".join(re.findall(r" by \(([^)]*)\)", query)))) | set(
        re.findall(r"\{\{(\w+)\}\}", legend)
    )
    assert used <= set.union(*(metrics[name] for name, _ in selected)) | OF_PROMETHEUS, title


def test_every_metric_of_the_server_is_shown(metrics: dict[str, set[str]]) -> None:
    shown = " ".join(query for _, query, _ in QUERIES)
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in metrics}
    assert not {family for family in families if family not in shown}


def test_series_of_a_running_server_are_the_ones_asked_for(deployment: Deployment) -> None:
    deployment.chat({"messages": [{"role": "user", "content": "Hello!"}]})
    scraped = list(text_string_to_metric_families(deployment.http.get("/metrics").text))
    series = {sample.name for family in scraped for sample in family.samples}
    for name in ("proxy_requests_total", "proxy_request_seconds_bucket", "proxy_stage_seconds_sum", "proxy_jobs_total"):
        assert name in series
        assert any(name in query for _, query, _ in QUERIES)


def test_panels_do_not_overlap_and_have_titles_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place: dict[str, Any] = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
