// Check manifests from standard input, a JSON list, with the schemas of their CRDs; write a JSON list of lists of faults.
//
// The schemas, compiled to functions, let unknown fields pass, which an API server drops or refuses. A validator reads
// every field that it knows by its name, so a field that nobody read is an unknown one.

import { validate as httpRoute } from "./node_modules/@kubernetes-models/gateway-api/_schemas/IoK8sSigsGatewayApiApisV1HTTPRoute.js";
import { validate as scaledObject } from "./node_modules/@kubernetes-models/keda/_schemas/ComGithubKedacoreKedaV2ApisKedaV1alpha1ScaledObject.js";
import { validate as prometheusRule } from "./node_modules/@kubernetes-models/prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1PrometheusRule.js";
import { validate as serviceMonitor } from "./node_modules/@kubernetes-models/prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1ServiceMonitor.js";

const VALIDATORS = {
  "gateway.networking.k8s.io/v1 HTTPRoute": httpRoute,
  "keda.sh/v1alpha1 ScaledObject": scaledObject,
  "monitoring.coreos.com/v1 PrometheusRule": prometheusRule,
  "monitoring.coreos.com/v1 ServiceMonitor": serviceMonitor,
};

function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  const here = new Map();
  const children = Array.isArray(value) ? value.map((item, i) => watched(item, `${path}/${i}`, unread)) : {};
  if (Array.isArray(value)) return children;
  for (const [key, item] of Object.entries(value)) {
    children[key] = watched(item, `${path}/${key}`, unread);
    unread.add(`${path}/${key}`);
    here.set(key, `${path}/${key}`);
  }
  return new Proxy(children, {
    get(target, key) {
      unread.delete(here.get(key));
      return target[key];
    },
  });
}

function faults(manifest) {
  const name = `${manifest.apiVersion} ${manifest.kind}`;
  const validate = VALIDATORS[name];
  if (!validate) return [`no schema for ${name}`];
  const unread = new Set();
  const isValid = validate(watched(manifest, "", unread));
  const wrong = isValid ? [] : validate.errors.map((error) => `${error.instancePath}: ${error.keyword} ${JSON.stringify(error.params)}`);
  // what is below an unknown field was not read either; metadata has a schema of its own, not this one's
  const unknown = [...unread].filter((path) => !path.startsWith("/metadata/") && ![...unread].some((other) => path.startsWith(`${other}/`)));
  return [...wrong, ...unknown.map((path) => `${path}: unknown`)];
}

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
process.stdout.write(JSON.stringify(JSON.parse(Buffer.concat(chunks)).map(faults)));
