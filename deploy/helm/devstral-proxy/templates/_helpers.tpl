{{- define "proxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "proxy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "proxy.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "proxy.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "proxy.metricsService" -}}
{{- printf "%s-metrics" (include "proxy.fullname" . | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{- define "proxy.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "proxy.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "proxy.selector" -}}
app.kubernetes.io/name: {{ include "proxy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "proxy.labels" -}}
{{ include "proxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "proxy.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The settings with the backends of the mode, and the metrics' own listener where Prometheus reaches it. */ -}}
{{- define "proxy.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not (or $config.backends $config.vllm_base) -}}
{{- if eq .Values.mode "sidecar" -}}
{{- $_ := set $config "vllm_base" "http://127.0.0.1:8000" -}}
{{- else -}}
{{- $_ := set $config "backends" (list (dict "url" (printf "http://vllm:%v" .Values.networkPolicy.vllmPort) "dns" true)) -}}
{{- end -}}
{{- end -}}
{{- if and $config.metrics_port (not (hasKey $config "metrics_host")) -}}
{{- $_ := set $config "metrics_host" ($config.host | default "0.0.0.0") -}}
{{- end -}}
{{- $config | toJson -}}
{{- end -}}

{{- /* Settings as TOML. Helm's own toToml makes 9000 a 9000.0, which is no port. What JSON calls a value is one in TOML,
but for objects, which are written as inline tables. */ -}}
{{- define "proxy.toml" -}}
{{- range $key, $value := . -}}
{{ $key }} = {{ include "proxy.tomlValue" $value }}
{{ end -}}
{{- end -}}

{{- define "proxy.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }}, {{ end }}{{ $key | toJson }} = {{ include "proxy.tomlValue" (get $ $key) }}{{ end -}} }
{{- else if kindIs "slice" . -}}
[{{- range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "proxy.tomlValue" $item }}{{ end -}}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{- /* drain_delay_s + drain_timeout_s, 11 s in which the proxy says farewell, what vLLM takes, and the margin. */ -}}
{{- define "proxy.grace" -}}
{{- $delay := dig "drain_delay_s" 5 .Values.config -}}
{{- $timeout := dig "drain_timeout_s" 300 .Values.config -}}
{{- $vllm := ternary .Values.vllm.endSeconds 0 (eq .Values.mode "sidecar") -}}
{{- add (ceil (addf $delay $timeout)) 11 $vllm .Values.graceMarginSeconds -}}
{{- end -}}

{{- define "proxy.probe" -}}
{{- $mtls := .top.Values.tls.clientCA.existingSecret -}}
{{- if and $mtls (eq .path "/livez") -}}
exec:
  command: [devstral-proxy, healthcheck, --config, /etc/devstral-proxy/proxy.toml]
{{- else if $mtls -}}
tcpSocket: {port: http}
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ ternary "HTTPS" "HTTP" (not (empty .top.Values.tls.existingSecret)) }}
{{- end }}
{{ toYaml .times }}
{{- end -}}

{{- /* Where each Secret is mounted, which variable names its file, and the Secret: one list for both. */ -}}
{{- define "proxy.secrets" -}}
{{- $v := .Values -}}
{{- $list := list -}}
{{- with $v.auth.existingSecret }}{{ $list = append $list (dict "name" "keys" "secret" . "files" (dict "PROXY_KEYS_FILE" $v.auth.key)) }}{{ end -}}
{{- with $v.vllmApiKey.existingSecret }}{{ $list = append $list (dict "name" "vllm" "secret" . "files" (dict "VLLM_API_KEY_FILE" $v.vllmApiKey.key)) }}{{ end -}}
{{- with $v.store.existingSecret }}{{ $list = append $list (dict "name" "store" "secret" . "files" (dict "STORE_URL_FILE" $v.store.key)) }}{{ end -}}
{{- with $v.tls.existingSecret }}{{ $list = append $list (dict "name" "tls" "secret" . "files" (dict "TLS_CERT_FILE" "tls.crt" "TLS_KEY_FILE" "tls.key")) }}{{ end -}}
{{- with $v.tls.clientCA.existingSecret }}{{ $list = append $list (dict "name" "client-ca" "secret" . "files" (dict "TLS_CLIENT_CA_FILE" $v.tls.clientCA.key)) }}{{ end -}}
{{- range $v.backendSecrets }}{{ $list = append $list (dict "name" (printf "backends/%s" .) "secret" . "files" dict) }}{{ end -}}
{{- $list | toJson -}}
{{- end -}}
