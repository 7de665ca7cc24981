{{/* Names. A release called sightline has objects called sightline-api, any other NAME-sightline-api. */}}
{{- define "sightline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sightline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "sightline.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sightline.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of an object that the whole cluster shares: two releases may be called the same in two namespaces. */}}
{{- define "sightline.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "sightline.fullname" .) -}}
{{- end -}}

{{- define "sightline.operatorAccount" -}}
{{- default (printf "%s-operator" (include "sightline.fullname" .)) .Values.operator.serviceAccount.name -}}
{{- end -}}

{{/* Labels. Give (list $ "api"); the selector's never change from one version to the next. */}}
{{- define "sightline.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "sightline.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "sightline.labels" -}}
{{- $root := index . 0 -}}
{{ include "sightline.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: sightline
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Images. "sightline.ownImage" is given (list $ "api"), "sightline.image" an image's values. */}}
{{- define "sightline.ownImage" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
{{- $own := index $image (index . 1) -}}
{{- include "sightline.image" (dict "registry" $image.registry "repository" $own.repository "tag" $image.tag "digest" $own.digest) -}}
{{- end -}}

{{- define "sightline.image" -}}
{{- if .registry }}{{ .registry }}/{{ end }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}

{{/* What the restricted Pod Security standard asks of a pod and of each container; the number is user and group. */}}
{{- define "sightline.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sightline.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
What pods are called and where they may run. Give (list $ "api" .Values.api).
A checksum makes new pods of those that read the stores' Secret when it changes. No version: a new chart alone starts
no database again.
*/}}
{{- define "sightline.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $part := index . 2 -}}
labels:
  {{- include "sightline.selector" (list $root (index . 1)) | nindent 2 }}
  {{- with merge (dict) $part.podLabels $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $own := dict }}
{{- if has (index . 1) (list "api" "operator") }}
{{- $_ := set $own "checksum/stores" (include "sightline.storesData" $root | sha256sum) }}
{{- end }}
{{- with mergeOverwrite $own $part.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sightline.placement" -}}
{{- $root := index . 0 -}}
{{- $part := index . 2 -}}
enableServiceLinks: false
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range tuple "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "sightline.selector" (list $root (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end -}}

{{/* Stores: which of them the chart runs itself, "true" or nothing, and where they are. */}}
{{- define "sightline.ownQdrant" -}}{{ if not .Values.qdrant.url }}true{{ end }}{{- end -}}
{{- define "sightline.ownRedis" -}}{{ if and .Values.redis.enabled (not .Values.redis.url) }}true{{ end }}{{- end -}}
{{- define "sightline.ownPostgresql" -}}{{ if and .Values.postgresql.enabled (not .Values.postgresql.url) }}true{{ end }}{{- end -}}

{{- define "sightline.host" -}}
{{- $root := index . 0 -}}
{{ include "sightline.fullname" $root }}-{{ index . 1 }}.{{ $root.Release.Namespace }}.svc
{{- end -}}

{{- define "sightline.qdrantUrl" -}}
{{- default (printf "http://%s:6334" (include "sightline.host" (list . "qdrant"))) .Values.qdrant.url -}}
{{- end -}}

{{/*
A password of the Secret: what is in the cluster, else a new one, the same wherever this rendering asks for it.
`lookup` finds nothing in `helm template`, so tools that apply its output bring a Secret of their own (stores.create).
*/}}
{{- define "sightline.password" -}}
{{- $root := index . 0 -}}
{{- $key := index . 1 -}}
{{- $stores := $root.Values.stores -}}
{{- if not (hasKey $stores "known") -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace $stores.secretName | default dict -}}
{{- $_ := set $stores "known" (dict) -}}
{{- range $name, $value := $found.data | default dict -}}
{{- $_ := set $stores.known $name ($value | b64dec) -}}
{{- end -}}
{{- end -}}
{{- if not (index $stores.known $key) -}}
{{- $_ := set $stores.known $key (randAlphaNum 32) -}}
{{- end -}}
{{- index $stores.known $key -}}
{{- end -}}

{{/* The keys of the Secret. INDEX_DATABASE_URL, QDRANT_API_KEY and REDIS_URL are variables of every pod with an index. */}}
{{- define "sightline.storesData" -}}
{{- if not .Values.stores.create -}}
{{ .Values.stores.secretName }}
{{- else -}}
{{- if include "sightline.ownQdrant" . -}}
QDRANT_API_KEY: {{ include "sightline.password" (list . "QDRANT_API_KEY") | quote }}
{{- else -}}
QDRANT_API_KEY: {{ .Values.qdrant.apiKey | quote }}
{{- end }}
{{- if include "sightline.ownRedis" . }}
{{- $password := include "sightline.password" (list . "REDIS_PASSWORD") }}
REDIS_PASSWORD: {{ $password | quote }}
REDIS_URL: {{ printf "redis://:%s@%s:6379/0" $password (include "sightline.host" (list . "redis")) | quote }}
{{- else }}
REDIS_URL: {{ .Values.redis.url | quote }}
{{- end }}
{{- if include "sightline.ownPostgresql" . }}
{{- $password := include "sightline.password" (list . "POSTGRES_PASSWORD") }}
POSTGRES_PASSWORD: {{ $password | quote }}
INDEX_DATABASE_URL: {{ printf "postgresql://sightline:%s@%s:5432/sightline" $password (include "sightline.host" (list . "postgresql")) | quote }}
{{- else }}
INDEX_DATABASE_URL: {{ .Values.postgresql.url | quote }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The namespaces that have ImageIndexes for certain, besides the release's own. */}}
{{- define "sightline.otherNamespaces" -}}
{{- without .Values.operator.watchNamespaces .Release.Namespace | uniq | toJson -}}
{{- end -}}

{{/* A variable from the Secret of the stores. Give (list $ "QDRANT_API_KEY" optional?). */}}
{{- define "sightline.secretVariable" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ (index . 0).Values.stores.secretName }}
      key: {{ index . 1 }}
      {{- if index . 2 }}
      optional: true
      {{- end }}
{{- end -}}

{{/* Volumes that a StatefulSet's pods keep, or lose with the pod. Give (list $ "qdrant" .Values.qdrant.storage). */}}
{{- define "sightline.claimTemplates" -}}
{{- $storage := index . 2 -}}
{{- if $storage.enabled -}}
volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      name: storage
      labels:
        {{- include "sightline.selector" . | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $storage.className }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ $storage.size }}
{{- end }}
{{- end -}}
