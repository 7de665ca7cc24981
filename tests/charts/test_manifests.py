"""What the chart makes of many values: accepted by Kubernetes' own schemas, restricted, and consistent in itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from imageindex_operator.api import KINDS
from imageindex_operator.builders import autoscaler
from imageindex_operator.builders.pods import USER
from imageindex_operator.config import Config
from imageindex_operator.names import GROUP, OWNER
from imageindex_operator.reconcile import CHILDREN
from imageindex_operator.resource import ImageIndex

from engine.settings import Settings
from tests.charts import schemas
from tests.charts.conftest import CHART, COMBINATIONS, NAMESPACE, ROOT, Body, Chart, objects, pods
from tests.e2e.cluster.programs import Programs

pytestmark = pytest.mark.programs

combinations = pytest.mark.parametrize("name", COMBINATIONS)
SOURCE = ROOT / "operator" / "imageindex_operator" / "crd.yaml"
OWN_VARIABLES = {"HOME", "HF_HOME"}


def crd_of(found: list[Body]) -> Body:
    [crd] = [body for body in found if body["kind"] == "CustomResourceDefinition"]
    return crd


def of(found: list[Body], kind: str, name: str) -> Body:
    [one] = [body for body in found if body["kind"] == kind and body["metadata"]["name"] == name]
    return one


def container(found: list[Body], owner: str) -> Body:
    [one] = pods(found)[owner]["spec"]["containers"]
    return dict(one)


def variables(one: Body) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in one.get("env", [])}


@pytest.fixture(scope="session")
def kubeconform(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A kubeconform that has the schemas of everything that the chart renders, ImageIndex's own included."""
    own = tmp_path_factory.mktemp("schemas")
    for name, schema in schemas.of_definition(yaml.safe_load(SOURCE.read_text())):
        (own / name).write_text(json.dumps(schema))
    places = [f"{folder}/{schemas.LOCATION}" for folder in (schemas.folder(), own)]
    locations = [word for place in places for word in ("-schema-location", place)]
    return [programs["kubeconform"], "-strict", "-summary", *locations]


def conforms(kubeconform: list[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(kubeconform, input=text, capture_output=True, text=True, check=False, timeout=120)


@combinations
def test_kubernetes_knows_every_field(chart: Chart, kubeconform: list[str], name: str):
    """It finds a schema for every object and nothing in it that the schema doesn't have."""
    done = conforms(kubeconform, chart.combination(name))
    assert done.returncode == 0, done.stdout
    assert f"Valid: {len(chart.objects(name))}, Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_a_field_that_kubernetes_does_not_know_is_noticed(chart: Chart, kubeconform: list[str]):
    """The schemas are as strict as the API server: what is misspelt in a template would fail."""
    text = chart.combination("monitoring")
    for right, wrong in (
        ("readOnlyRootFilesystem", "readonlyRootFilesystem"),
        ("podMetricsEndpoints", "podMetricEndpoints"),
        ("maxUnavailable: 1", "maxUnavailable: [1]"),
        ("replicas: 1", 'replicas: "1"'),
    ):
        assert conforms(kubeconform, text.replace(right, wrong)).returncode != 0, wrong


def test_the_first_index_of_the_notes_is_an_imageindex(kubeconform: list[str]):
    """What people are told to apply after the installation is valid."""
    text = (CHART / "templates" / "NOTES.txt").read_text()
    applied = (
        text.partition("-f - <<END\n")[2]
        .partition("  END\n")[0]
        .replace('{{ default "default" .Values.api.index }}', "a")
    )
    assert conforms(kubeconform, applied).returncode == 0, applied


@combinations
def test_helm_has_nothing_to_say(chart: Chart, name: str):
    """`helm lint --strict`."""
    done = chart.run("lint", "--strict", values=COMBINATIONS[name])
    assert done.returncode == 0, done.stdout
    assert "0 chart(s) failed" in done.stdout


@combinations
def test_every_pod_is_restricted(chart: Chart, name: str):
    """The restricted Pod Security standard, and beyond it: read-only root, requests, no token but the operator's."""
    found = pods(chart.objects(name))
    assert found
    for owner, template in found.items():
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec), owner
        assert {next(iter(set(volume) - {"name"})) for volume in spec.get("volumes", [])} <= {
            "emptyDir",
            "persistentVolumeClaim",
        }
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] != 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is owner.endswith("-operator"), owner
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(one["resources"]["requests"]), owner
            assert "memory" in one["resources"]["limits"], owner
            mounted = {mount["name"] for mount in one.get("volumeMounts", [])}
            claims = {"storage"} if owner.startswith("StatefulSet") else set()
            assert mounted <= {volume["name"] for volume in spec.get("volumes", [])} | claims
            assert owner.startswith("Pod/") or {"readinessProbe", "livenessProbe"} <= set(one), owner


@combinations
def test_selectors_find_their_pods(chart: Chart, name: str):
    """Each Deployment, Service, budget and policy selects the pods of one template, and ports that they have."""
    found = chart.objects(name)
    templates = pods(found)
    for body in found:
        spec, kind = body.get("spec", {}), body["kind"]
        if kind in {"Deployment", "StatefulSet", "PodDisruptionBudget"}:
            selector = spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            selector = spec["podSelector"]["matchLabels"]
        elif kind == "Service":
            selector = spec["selector"]
        else:
            continue
        chosen = [one for one in templates.values() if selector.items() <= one["metadata"]["labels"].items()]
        assert len(chosen) == 1, f"{kind} {body['metadata']['name']} selects {len(chosen)} templates"
        ports = {port["name"] for one in chosen[0]["spec"]["containers"] for port in one.get("ports", [])}
        wanted = [port["targetPort"] for port in spec.get("ports", [])]
        wanted += [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]] * (
            kind == "NetworkPolicy"
        )
        assert {port for port in wanted if isinstance(port, str)} <= ports


@combinations
def test_policies_lead_to_pods_that_listen(chart: Chart, name: str):
    """Where a policy lets out traffic to pods of the release, these let it in by the same port."""
    found = chart.objects(name)
    templates = pods(found)
    for policy in (body for body in found if body["kind"] == "NetworkPolicy"):
        for rule in policy["spec"]["egress"]:
            for peer in rule.get("to", []):
                labels = peer.get("podSelector", {}).get("matchLabels")
                if labels is None:
                    continue
                [chosen] = [one for one in templates.values() if labels.items() <= one["metadata"]["labels"].items()]
                ports = {port["name"] for one in chosen["spec"]["containers"] for port in one["ports"]}
                assert {port["port"] for port in rule["ports"]} <= ports
                entries = [
                    entry
                    for other in found
                    if other["kind"] == "NetworkPolicy" and other["spec"]["podSelector"]["matchLabels"] == labels
                    for entry in other["spec"]["ingress"]
                    if {port["port"] for port in rule["ports"]} == {port["port"] for port in entry["ports"]}
                ]
                own = policy["spec"]["podSelector"]["matchLabels"]
                assert any(
                    sender.get("podSelector", {}).get("matchLabels") == own
                    for entry in entries
                    for sender in entry["from"]
                )


@combinations
def test_names_are_not_taken_twice(chart: Chart, name: str):
    """No two objects of one kind have the same name; all but those of the cluster say their namespace."""
    found = [
        (body["kind"], body["metadata"].get("namespace"), body["metadata"]["name"]) for body in chart.objects(name)
    ]
    assert len(found) == len(set(found))
    clusterwide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    assert all((kind in clusterwide) == (namespace is None) for kind, namespace, _ in found)


@combinations
def test_every_variable_is_a_setting(chart: Chart, name: str):
    """Sightline's containers get variables that mean something to it, of values that its settings accept."""
    for owner, template in pods(chart.objects(name)).items():
        [one] = template["spec"]["containers"]
        if one.get("command", [""])[0] != "sightline":
            continue
        extra = {"SSL_CERT_FILE"}
        given = {key.lower(): value for key, value in variables(one).items() if key not in OWN_VARIABLES | extra}
        assert set(given) <= set(Settings.model_fields), owner
        Settings(_env_file=None, **{key: value for key, value in given.items() if isinstance(value, str)})


@combinations
def test_every_secret_that_is_read_is_written(chart: Chart, name: str):
    """Keys of the stores' Secret that pods ask for are in it; the chart's one Secret is the one they name."""
    found = chart.objects(name)
    written = {
        (body["metadata"]["name"], key)
        for body in found
        if body["kind"] == "Secret" and body["metadata"]["namespace"] == NAMESPACE
        for key in body["stringData"]
    }
    asked = {
        (source["secretKeyRef"]["name"], source["secretKeyRef"]["key"])
        for template in pods(found).values()
        for one in template["spec"]["containers"]
        for source in variables(one).values()
        if isinstance(source, dict) and "secretKeyRef" in source
    }
    if COMBINATIONS[name].get("stores", {}).get("create", True):
        assert asked <= written
    else:
        assert not written
        assert {secret for secret, _ in asked} == {COMBINATIONS[name]["stores"].get("secretName", "sightline-stores")}


# ---------------------------------------------------------------- the definition


def test_the_definition_is_the_operators_own(chart: Chart):
    """One source: the chart's copy is made from the operator's (`make chart`), byte for byte."""
    assert (CHART / "files" / "crd.yaml").read_bytes() == SOURCE.read_bytes(), "run `make chart`"
    crd = crd_of(chart.objects("defaults"))
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd == yaml.safe_load(SOURCE.read_text())


def test_the_definition_goes_with_the_release_if_it_shall(chart: Chart):
    assert crd_of(chart.objects("crds-go")) == yaml.safe_load(SOURCE.read_text())
    assert not [body for body in chart.objects("no-crds") if body["kind"] == "CustomResourceDefinition"]


# ---------------------------------------------------------------- rights


def rules_of(found: list[Body], suffix: str) -> dict[tuple[str, str], Body]:
    """The rules of a role by group and resource, each resource in one rule alone."""
    [role] = [
        body for body in found if body["kind"] in {"Role", "ClusterRole"} and body["metadata"]["name"].endswith(suffix)
    ]
    flat = [
        ((group, resource), rule)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]
    assert len(flat) == len(dict(flat))
    return dict(flat)


def group_of(kind: str) -> tuple[str, str]:
    api_version, plural = KINDS[kind].api_version, KINDS[kind].plural
    return (api_version.partition("/")[0] if "/" in api_version else "", plural)


def test_the_operator_may_do_what_it_does_and_nothing_else(chart: Chart):
    """Every kind that it knows has a rule, and no rule is about anything else."""
    rules = rules_of(chart.objects("keda"), "-operator")
    known = {group_of(kind) for kind in KINDS if kind != "Lease"}
    assert set(rules) == known | {(GROUP, "imageindexes/status")}
    for kind in CHILDREN:
        assert set(rules[group_of(kind)]["verbs"]) == {"get", "list", "watch", "create", "patch", "delete"}, kind
    assert set(rules[group_of("ImageIndex")]["verbs"]) == {"get", "list", "watch", "patch"}
    assert rules[GROUP, "imageindexes/status"]["verbs"] == ["patch"]
    assert set(rules[group_of("ScaledObject")]["verbs"]) == {"get", "list", "create", "patch", "delete"}
    assert rules[group_of("Pod")]["verbs"] == ["list"]
    assert rules[group_of("PersistentVolumeClaim")]["verbs"] == ["get"]
    assert set(rules[group_of("Event")]["verbs"]) == {"get", "create", "patch"}


def test_the_operator_may_read_no_secret_but_that_of_the_stores(chart: Chart):
    rule = rules_of(chart.objects("defaults"), "-operator")[group_of("Secret")]
    assert (rule["verbs"], rule["resourceNames"]) == (["get"], ["sightline-stores"])


def test_the_operator_has_no_rights_to_keda_without_its_prometheus(chart: Chart):
    assert group_of("ScaledObject") not in rules_of(chart.objects("defaults"), "-operator")


def test_every_right_has_its_reason():
    """In the template, a comment stands above each of the operator's rules."""
    lines = (CHART / "templates" / "operator-rbac.yaml").read_text().splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("- apiGroups")]
    assert rules
    assert all(lines[number - 1].startswith("#") for number in rules)


def test_the_lease_is_in_the_operators_own_namespace_and_is_its_only_one(chart: Chart):
    found = chart.objects("namespaced")
    role = of(found, "Role", "sightline-operator-lease")
    assert role["metadata"]["namespace"] == NAMESPACE
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in role["rules"]] == [
        (["create"], None),
        (["get", "update"], ["sightline-operator"]),
    ]


def test_a_namespaced_operator_has_no_rights_elsewhere(chart: Chart):
    """No ClusterRole but those of people; a Role, the Secret and the claim in each namespace that it looks after."""
    found = chart.objects("namespaced")
    assert {body["metadata"]["name"] for body in found if body["kind"] == "ClusterRole"} == {
        f"{NAMESPACE}-sightline-edit",
        f"{NAMESPACE}-sightline-view",
    }
    assert not [body for body in found if body["kind"] == "ClusterRoleBinding"]

    def places(kind: str, name: str) -> set[str]:
        named = [body for body in found if body["kind"] == kind and body["metadata"]["name"] == name]
        return {body["metadata"]["namespace"] for body in named}

    everywhere = {"search", "pictures", "films"}
    assert places("Role", "sightline-operator") == places("RoleBinding", "sightline-operator") == everywhere
    assert places("Secret", "sightline-stores") == places("PersistentVolumeClaim", "sightline-data") == everywhere
    assert len({str(body["stringData"]) for body in found if body["kind"] == "Secret"}) == 1
    operator = container(found, "Deployment/sightline-operator")
    assert variables(operator)["OPERATOR_NAMESPACES"] == "search,pictures,films"


@combinations
def test_bindings_give_the_operator_its_roles(chart: Chart, name: str):
    """Each binding names a role that is there and the account that the operator's pod has."""
    found = chart.objects(name)
    names = {(body["kind"], body["metadata"]["name"]) for body in found}
    bindings = [body for body in found if body["kind"].endswith("RoleBinding")]
    for binding in bindings:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in names
        [subject] = binding["subjects"]
        pod = pods(found)[next(owner for owner in pods(found) if owner.endswith("-operator"))]
        assert (subject["name"], subject["namespace"]) == (pod["spec"]["serviceAccountName"], NAMESPACE)
        assert ("ServiceAccount", subject["name"]) in names


# ---------------------------------------------------------------- stores


def test_the_stores_are_those_that_the_chart_runs(chart: Chart):
    """The Secret's addresses are the Services', its passwords those that the servers start with."""
    found = chart.objects("defaults")
    secret = of(found, "Secret", "sightline-stores")["stringData"]
    ports = {body["metadata"]["name"]: body["spec"]["ports"][0]["port"] for body in found if body["kind"] == "Service"}
    assert secret["INDEX_DATABASE_URL"] == (
        f"postgresql://sightline:{secret['POSTGRES_PASSWORD']}@sightline-postgresql.{NAMESPACE}.svc:"
        f"{ports['sightline-postgresql']}/sightline"
    )
    assert secret["REDIS_URL"] == (
        f"redis://:{secret['REDIS_PASSWORD']}@sightline-redis.{NAMESPACE}.svc:{ports['sightline-redis']}/0"
    )
    for owner in ("Deployment/sightline-operator", "Deployment/sightline-api"):
        address = f"http://sightline-qdrant.{NAMESPACE}.svc:{ports['sightline-qdrant']}"
        assert variables(container(found, owner))["QDRANT_URL"] == address
    passwords = {secret[name] for name in ("QDRANT_API_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD")}
    assert len(passwords) == 3
    assert all(len(password) >= 32 for password in passwords)


def test_every_installation_has_passwords_of_its_own(chart: Chart):
    one, other = (of(objects(chart.text()), "Secret", "sightline-stores")["stringData"] for _ in range(2))
    assert not set(one.values()) & set(other.values())


def test_stores_of_ones_own_take_the_place_of_the_charts(chart: Chart):
    """By address: none of the three servers runs, and pods get the addresses as they are."""
    found = chart.objects("external")
    assert {owner for owner in pods(found) if not owner.startswith("Pod/")} == {
        "Deployment/sightline-operator",
        "Deployment/sightline-api",
    }
    values = COMBINATIONS["external"]
    assert of(found, "Secret", "sightline-stores")["stringData"] == {
        "QDRANT_API_KEY": "key",
        "REDIS_URL": values["redis"]["url"],
        "INDEX_DATABASE_URL": values["postgresql"]["url"],
    }
    policy = of(found, "NetworkPolicy", "sightline-api")
    out = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert out == {53, 443, 6380, 5433}


def test_no_secret_is_written_into_a_pod(chart: Chart):
    """Passwords stand in the Secret alone."""
    text = chart.combination("defaults")
    secret = of(objects(text), "Secret", "sightline-stores")["stringData"]
    for name in ("QDRANT_API_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        rest = [body for body in objects(text) if body["kind"] != "Secret"]
        assert secret[name] not in str(rest)


def test_pods_are_made_anew_when_a_secret_changes_and_databases_are_not(chart: Chart):
    """The checksum stands where the Secret is read, and not where a restart would cost searches."""
    found = pods(chart.objects("defaults"))
    marked = {owner for owner, pod in found.items() if "checksum/stores" in pod["metadata"].get("annotations", {})}
    assert marked == {"Deployment/sightline-operator", "Deployment/sightline-api"}
    labels = [pod["metadata"]["labels"] for owner, pod in found.items() if not owner.startswith("Pod/")]
    assert not [one for one in labels if "helm.sh/chart" in one or "app.kubernetes.io/version" in one]


def test_one_qdrant_runs_as_its_image_says_and_several_join(chart: Chart):
    assert not {"command", "args"} & set(container(chart.objects("defaults"), "StatefulSet/sightline-qdrant"))
    several = container(chart.objects("many-nodes"), "StatefulSet/sightline-qdrant")
    assert variables(several)["QDRANT__CLUSTER__ENABLED"] == "true"
    script = several["args"][0].replace("exec ./entrypoint.sh", "echo")
    for number, joins in ((0, False), (2, True)):
        told = subprocess.run(
            ["bash", "-c", script],
            env={"POD_NAME": f"sightline-qdrant-{number}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        first = "http://sightline-qdrant-0.sightline-qdrant-nodes:6335"
        assert told == [
            "--uri",
            f"http://sightline-qdrant-{number}.sightline-qdrant-nodes:6335",
            *(["--bootstrap", first] if joins else []),
        ]


# ---------------------------------------------------------------- pods, images, monitoring


def test_the_operator_starts_pods_of_the_image_and_stores_that_the_chart_names(chart: Chart):
    """What the operator takes from its settings is what the release has."""
    found = chart.objects("digests")
    given = variables(container(found, "Deployment/sightline-operator"))
    plain = {key.lower(): value for key, value in given.items() if isinstance(value, str) and key != "HOME"}
    config = Config.of(Settings(_env_file=None, **plain))
    assert config.image.startswith("registry.example.com:5000/images/sightline-indexer@sha256:")
    names = {(body["kind"], body["metadata"]["name"]) for body in found}
    assert {("Secret", config.stores_secret), ("PersistentVolumeClaim", config.data_claim)} <= names
    assert pods(found)["Deployment/sightline-api"]["spec"]["securityContext"]["runAsUser"] == USER


def test_images_come_from_where_the_values_say(chart: Chart):
    """By registry, tag or digest, with the registry's secrets."""
    found = pods(chart.objects("private-registry"))
    api = found["Deployment/sightline-api"]["spec"]
    assert api["containers"][0]["image"] == "registry.example.com/team/sightline-api:1.2.3"
    for template in found.values():
        assert template["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert template["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    qdrant = container(chart.objects("digests"), "StatefulSet/sightline-qdrant")
    assert qdrant["image"].startswith("registry.example.com:5000/qdrant/qdrant@sha256:")


def test_placement_reaches_every_pod(chart: Chart):
    for owner, template in pods(chart.objects("placed")).items():
        spec = template["spec"]
        assert spec["priorityClassName"] == "important", owner
        assert spec["nodeSelector"] == {"disk": "fast"}
        assert spec["tolerations"]
        assert "nodeAffinity" in spec["affinity"]
        assert owner.startswith("Pod/") or template["metadata"]["labels"]["team"] == "search"


def test_an_autoscaler_owns_the_replicas(chart: Chart):
    """With one, the Deployment has no number of its own that an upgrade would set it back to."""
    scaled = chart.objects("scaled-by-searches")
    assert "replicas" not in of(scaled, "Deployment", "sightline-api")["spec"]
    [metric] = of(scaled, "HorizontalPodAutoscaler", "sightline-api")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "sightline_searches_running"
    assert of(chart.objects("defaults"), "Deployment", "sightline-api")["spec"]["replicas"] == 1


def test_monitors_find_services_and_ports(chart: Chart):
    """Every ServiceMonitor selects a Service with each of its ports somewhere among them."""
    found = chart.objects("monitoring")
    monitors = [body for body in found if body["kind"] == "ServiceMonitor"]
    assert len(monitors) == 2
    for monitor in monitors:
        selector = monitor["spec"]["selector"]
        expressions = selector.get("matchExpressions", [])
        chosen = [
            body
            for body in found
            if body["kind"] == "Service"
            and selector["matchLabels"].items() <= body["metadata"]["labels"].items()
            and all(body["metadata"]["labels"][one["key"]] in one["values"] for one in expressions)
        ]
        ports = {port["name"] for service in chosen for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
        assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_replicas_are_found_by_the_labels_that_the_operator_gives_them(chart: Chart):
    monitor = of(chart.objects("monitoring"), "PodMonitor", "sightline-imageindexes")
    assert monitor["spec"]["selector"]["matchExpressions"] == [{"key": OWNER, "operator": "Exists"}]
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    namespaced = of(chart.objects("monitoring-namespaced"), "PodMonitor", "sightline-imageindexes")
    assert namespaced["spec"]["namespaceSelector"] == {"matchNames": ["pictures"]}


def test_what_the_operator_tells_keeps_its_own_namespace(chart: Chart):
    """In what it tells, `namespace` is that of an ImageIndex; Prometheus would put that of the operator there."""
    monitor = of(chart.objects("monitoring"), "ServiceMonitor", "sightline")
    assert {one["port"]: one.get("honorLabels", False) for one in monitor["spec"]["endpoints"]} == {
        "metrics": True,
        "http": False,
    }


def test_our_rules_and_dashboards_are_rendered_as_they_are(chart: Chart):
    """Each file is an object, with nothing of it taken for a template of Helm."""
    found = chart.objects("monitoring")
    rules, dashboards = (sorted((CHART / "files" / folder).iterdir()) for folder in ("rules", "dashboards"))
    assert rules
    assert dashboards
    for path in rules:
        assert of(found, "PrometheusRule", f"sightline-{path.stem}")["spec"] == yaml.safe_load(path.read_text())
    for path in dashboards:
        assert of(found, "ConfigMap", f"sightline-dashboard-{path.stem}")["data"] == {path.name: path.read_text()}


def test_without_an_operator_nobody_misses_it(chart: Chart):
    """The alert OperatorDown would fire for ever; those about searches are there."""
    found = objects(chart.text({"monitoring": {"enabled": True}, "operator": {"enabled": False}}))
    names = {body["metadata"]["name"] for body in found if body["kind"] == "PrometheusRule"}
    assert names == {"sightline-serving", "sightline-slo"}


def test_the_adapters_rules_have_the_figures_that_autoscalers_ask_for():
    """By the names in the autoscaler that the operator makes, from metrics that there are."""
    serving = {"autoscaling": {"class": "hpa", "max": 3, "targetP95Ms": 50}}
    spec = {"source": {"http": {"url": "https://a.example.com/a.csv"}}, "model": {"name": "m", "pretrained": ""}}
    body = {"metadata": {"name": "a", "namespace": "b", "uid": "c"}, "spec": {**spec, "serving": serving}}
    wanted = [
        (kind.lower(), metric[kind.lower()]["metric"]["name"])
        for metric in autoscaler(ImageIndex.parse(body), "r")["spec"]["metrics"]
        if (kind := metric["type"])
    ]
    rules = yaml.safe_load((CHART / "files" / "prometheus-adapter.yaml").read_text())["rules"]
    made = [(kind, rule["name"]["as"]) for kind, rules in rules.items() for rule in rules]
    assert made == [("custom" if kind == "pods" else kind, name) for kind, name in wanted]
    exposed = (ROOT / "observability" / "metrics.py").read_text()
    for rule in (rule for rules in rules.values() for rule in rules):
        assert f'"{rule["seriesQuery"].partition("{")[0].removesuffix("_bucket")}"' in exposed


@pytest.mark.parametrize("name", ["small", "full"])
def test_what_the_operator_makes_is_as_kubernetes_and_keda_define_it(kubeconform: list[str], name: str):
    """No field that a kind does not have, and none of another type."""
    made = yaml.safe_load((ROOT / "tests" / "operator" / "snapshots" / f"{name}.yaml").read_text())
    assert "ScaledObject" in {manifest["kind"] for manifest in made.values()}
    done = conforms(kubeconform, yaml.safe_dump_all(made.values()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(made)} resources found" in done.stdout


def test_rules_and_dashboards_are_the_files_of_their_folders(
    with_files: Chart, kubeconform: list[str], sample_files: dict[str, Path]
):
    """Each file becomes one object, whole, whatever braces are in it."""
    text = with_files.text({"monitoring": {"enabled": True}})
    assert conforms(kubeconform, text).returncode == 0
    found = objects(text)
    rule = of(found, "PrometheusRule", "sightline-sample")
    assert rule["spec"] == yaml.safe_load(sample_files["rules"].read_text())
    dashboard = of(found, "ConfigMap", "sightline-dashboard-sample")
    assert dashboard["data"] == {"sample.json": sample_files["dashboards"].read_text()}
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    none = {"enabled": True, "rules": {"enabled": False}, "dashboards": {"enabled": False}}
    assert not {"PrometheusRule", "ConfigMap"} & {
        body["kind"] for body in objects(with_files.text({"monitoring": none}))
    }
