{{- /* vLLM as the native sidecar of the proxy: on loopback, so its probes are commands. The proxy is started when the
startup probe has been passed, and vLLM gets SIGTERM when the proxy has ended. */ -}}
{{- define "proxy.vllmContainer" -}}
{{- $probe := list "python3" "-c" "import urllib.request; urllib.request.urlopen(\"http://127.0.0.1:8000/health\", timeout=4)" -}}
{{- with .Values.vllm -}}
- name: vllm
  image: {{ .image.repository }}:{{ .image.tag }}
  imagePullPolicy: {{ .image.pullPolicy }}
  restartPolicy: Always
  command: [vllm, serve]
  args:
    - {{ .model }}
    - --served-model-name={{ .servedModelName }}
    - --host=127.0.0.1
    - --port=8000
    {{- toYaml .args | nindent 4 }}
  env:
    {{- with .huggingfaceSecret }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ . }}, key: token}
    {{- end }}
    # A user id without a name, and a root that cannot be written to.
    - {name: USER, value: vllm}
    - {name: HOME, value: /cache}
    {{- with .env }}{{ toYaml . | nindent 4 }}{{ end }}
  startupProbe:
    exec: {command: {{ toJson $probe }}}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: {{ div .startSeconds 5 }}
  livenessProbe:
    exec: {command: {{ toJson $probe }}}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  resources: {{- toYaml .resources | nindent 4 }}
  securityContext: {{- toYaml $.Values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: cache, mountPath: /cache}
    - {name: tmp, mountPath: /tmp}
    - {name: shm, mountPath: /dev/shm}
{{- end -}}
{{- end -}}
