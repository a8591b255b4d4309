"""``make manifests``: the parts of deploy/kubernetes that say the same as something else in this repository."""

from __future__ import annotations

import json

from contract.paths import ROOT
from deploy.envoy import configuration
from serving.launch.envoy import Guard

COMPONENTS = ROOT / "deploy/kubernetes/components"
ALERTS = ROOT / "serving/gateway/dashboards/alerts.yml"
HEAD = """\
# Made by `make manifests` from serving/gateway/dashboards/alerts.yml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: qwen, labels: {app.kubernetes.io/name: qwen}}
spec:
"""


def envoy() -> str:
    """Envoy's configuration in front of the headless service, whose name resolves to all engine pods."""
    pods = [("http://qwen-engine:8080", 8001)]
    return json.dumps(configuration(pods, "0.0.0.0", 8001, 9901, Guard()), indent=1) + "\n"


def alerts() -> str:
    lines = [line for line in ALERTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


FILES = {COMPONENTS / "grpc/envoy.json": envoy, COMPONENTS / "monitoring/alerts.yaml": alerts}


def main() -> None:
    for path, content in FILES.items():
        path.write_text(content(), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
