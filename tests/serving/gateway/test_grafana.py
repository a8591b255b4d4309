"""Dashboard and alerts against a real Prometheus that scrapes the real gateway."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.paths import ROOT
from serving.host.ports import free_ports
from tests.conftest import Server
from tests.waiting import until

pytestmark = pytest.mark.browser
DASHBOARDS = ROOT / "serving" / "gateway" / "dashboards"
DASHBOARD = json.loads((DASHBOARDS / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*"}  # as Grafana fills them in
CHAT = {"model": "qwen", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 12}


def value_of(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


@pytest.fixture(scope="module")
def prometheus(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("prometheus")
    config = (DASHBOARDS / "prometheus.yml").read_text()
    config = config.replace("127.0.0.1:8080", server.gateway.removeprefix("http://")).replace(
        "_interval: 5s", "_interval: 1s"
    )
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text((DASHBOARDS / "alerts.yml").read_text())
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log, stdout=log)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        until(lambda: answers(client), 20, (folder / "log").read_text)
        yield client
    running.terminate()
    running.wait(10)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def traffic(server: Server) -> None:
    """Answers, a refusal, a repeated prompt (prefix cache) and a client that leaves."""
    with httpx.Client(base_url=server.gateway, timeout=30) as client:
        for _ in range(3):
            assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert client.post("/v1/chat/completions", json={**CHAT, "temperature": 9}).status_code == 400
        with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True, "max_tokens": 300}) as stream:
            for _ in zip(range(12), stream.iter_raw(), strict=False):  # some gaps between tokens to see
                pass


def query(prometheus: httpx.Client, expr: str) -> list[dict[str, Any]]:
    answer = prometheus.get("/api/v1/query", params={"query": value_of(expr)}).json()
    assert answer["status"] == "success", (expr, answer.get("error"))
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def finite(result: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(sample["value"][1])) for sample in result)


@pytest.mark.triton
def test_every_panel_shows_something(server: Server, prometheus: httpx.Client) -> None:
    exprs = [target["expr"] for panel in PANELS for target in panel["targets"]]
    missing = exprs
    deadline = time.monotonic() + 25
    while missing and time.monotonic() < deadline:  # a rate needs two scrapes on both sides of some traffic
        traffic(server)
        time.sleep(1)
        missing = [expr for expr in missing if not finite(query(prometheus, expr))]
    assert missing == []


@pytest.mark.triton
def test_no_alert_fires_on_a_healthy_server(server: Server, prometheus: httpx.Client) -> None:
    rules = prometheus.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert len(rules) == 7
    for rule in rules:
        assert query(prometheus, rule["query"]) == [], rule["name"]


def test_alerts_fire_on_their_faults() -> None:
    rules = Path(__file__).parent / "alerts_test.yml"
    done = subprocess.run(["promtool", "test", "rules", rules], cwd=rules.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_imports_cleanly() -> None:
    """What Grafana's import needs: unique ids, no overlap, every query on the chosen data source."""
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (x, y)
        for box in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {"$datasource"}
    assert all(panel["description"] for panel in PANELS)
