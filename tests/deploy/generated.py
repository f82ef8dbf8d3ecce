"""
What the manifests hold of things that stand elsewhere: `python -m tests.deploy.generated` writes it anew.

    values.schema.json, $defs    the settings of proxy.config: Helm refuses a misspelt one, and a secret in a ConfigMap
    prometheus-rule.yaml         deploy/prometheus/alerts.yml as an object; kustomize reads no file outside its folder

The chart reads the alerts through a symbolic link, which Helm follows.
"""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from proxy.config import OPTIONS, SETTINGS, Config
from proxy.config.records import Backend

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "devstral-proxy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
RULE = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheus-rule.yaml"
SCHEMA = CHART / "values.schema.json"

RULE_HEAD = """\
# deploy/prometheus/alerts.yml, word for word. Made by: python -m tests.deploy.generated
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: devstral-proxy
  labels:
    app.kubernetes.io/name: devstral-proxy
spec:
"""


def main() -> None:
    """Write every file."""
    for path, text in files():
        path.write_text(text, encoding="utf-8")


def files() -> Iterator[tuple[Path, str]]:
    """Each file, with what should be in it."""
    yield SCHEMA, values_schema(SCHEMA.read_text(encoding="utf-8"))
    yield RULE, RULE_HEAD + textwrap.indent(ALERTS.read_text(encoding="utf-8"), "  ")


def values_schema(text: str) -> str:
    """The schema with the settings in it; the rest of it is written by hand."""
    schema = json.loads(text)
    [_], components = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    config, backend = components["Config"], components[Backend.__name__]
    for row in SETTINGS.values():
        if row.about.secret:
            _by_file_only(config, row.name)
    _by_file_only(backend, "api_key")
    config["properties"]["options"] = {"type": "object", "propertyNames": {"enum": sorted(OPTIONS)}}
    schema["$defs"] = dict(sorted(components.items()))
    return json.dumps(schema, indent=2) + "\n"


def _by_file_only(record: dict[str, Any], name: str) -> None:
    """What stands in a ConfigMap is no secret."""
    properties = record["properties"]
    del properties[name]
    properties[f"{name}_file"] = {"type": "string", "default": ""}


if __name__ == "__main__":
    main()
