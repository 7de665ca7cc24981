from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.cluster import supervisor
from tests.e2e.cluster.cluster import ROOT, Cluster
from tests.e2e.cluster.machine import cgroup_roots
from tests.e2e.cluster.processes import ClusterFailed
from tests.e2e.cluster.programs import RECIPES
from tests.e2e.cluster.simulated import LABEL

pytestmark = pytest.mark.programs

PATIENCE_S = 180
PATIENCE = f"--timeout={PATIENCE_S}s"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
WHERE_NODES_WRITE = (
    "/etc/cni/net.d",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
SERVER = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)"
ASK = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1]).status)"


def test_the_node_is_ready_and_of_the_pinned_version(node: Cluster) -> None:
    version = next(recipe.version for recipe in RECIPES if recipe.name == "kubernetes")
    status = node.get("node", "node")["status"]
    assert status["nodeInfo"]["kubeletVersion"] == f"v{version}"
    assert json.loads(node.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"] == f"v{version}"


def test_a_restricted_pod_answers_through_its_service_and_by_its_name(node: Cluster, python_image: str) -> None:
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    node.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "restricted", "labels": restricted}},
        *web("restricted", python_image, RESTRICTED),
    )
    node.kubectl("rollout", "status", "deployment/web", "--namespace=restricted", PATIENCE)
    answer = httpx.get(node.service_url("web", 80, "restricted"), timeout=PATIENCE_S)
    assert answer.status_code == httpx.codes.OK
    by_name = node.kubectl(
        "exec", "deployment/web", "--namespace=restricted", "--", "python3", "-c", ASK, "http://web.restricted"
    )
    assert by_name.strip() == "200"
    assert "GET / HTTP" in node.kubectl("logs", "deployment/web", "--namespace=restricted")


def test_pod_security_refuses_a_pod_that_may_become_root(node: Cluster, python_image: str) -> None:
    node.kubectl("create", "namespace", "strict")
    node.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": "strict"},
        "spec": {"containers": [{"name": "root", "image": python_image}]},
    }
    with pytest.raises(ClusterFailed, match="violates PodSecurity"):
        node.apply(pod)


def test_an_indexed_job_completes_each_index_once(node: Cluster, python_image: str) -> None:
    container = {
        "name": "work",
        "image": python_image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import os; print('index', os.environ['JOB_COMPLETION_INDEX'])"],
    }
    spec = {
        "completions": 3,
        "parallelism": 3,
        "completionMode": "Indexed",
        "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
    }
    node.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "shards"}, "spec": spec})
    node.kubectl("wait", "--for=condition=Complete", "job/shards", PATIENCE)
    assert node.get("job", "shards")["status"]["completedIndexes"] == "0-2"
    said = node.kubectl("logs", "--selector=job-name=shards").split("\n")
    assert sorted(filter(None, said)) == ["index 0", "index 1", "index 2"]


def test_an_image_built_here_runs_without_a_registry(node: Cluster, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("built here")
    (tmp_path / "Dockerfile").write_text(
        'ARG BASE\nFROM ${BASE}\nARG WHERE\nCOPY greeting /greeting\nRUN echo ", in $WHERE" >> /greeting\n'
        'CMD ["cat", "/greeting"]\n'
    )
    arguments = [f"BASE={node.images.base()}", "WHERE=tests"]
    node.load_image(node.images.build("localhost/greeting:dev", tmp_path, arguments=arguments))
    node.kubectl("run", "greeting", "--image=localhost/greeting:dev", "--restart=Never")
    node.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/greeting", PATIENCE)
    assert node.kubectl("logs", "greeting").split() == ["built", "here,", "in", "tests"]


def test_a_pod_that_wants_gpus_goes_where_they_are(cluster: Cluster) -> None:
    with_gpus = cluster.add_simulated_nodes(2, gpus=4, name="gpu")
    cluster.add_simulated_nodes(2, name="plain")
    cluster.apply(gpu_pod("fits", gpus=4), gpu_pod("too-big", gpus=5))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/fits", PATIENCE)
    assert cluster.get("pod", "fits")["spec"]["nodeName"] in with_gpus
    cluster.kubectl("wait", "--for=condition=PodScheduled=false", "pod/too-big", PATIENCE)


def test_hundreds_of_simulated_nodes_are_ready(cluster: Cluster) -> None:
    names = cluster.add_simulated_nodes(200, name="many", labels={"fleet": "many"})
    fleet = cluster.get("nodes", "--selector=fleet=many")["items"]
    assert {each["metadata"]["name"] for each in fleet} == set(names)
    assert all(ready(each) == "True" for each in fleet)


def test_a_node_that_fails_is_noticed_and_one_that_recovers_too(cluster: Cluster) -> None:
    (name,) = cluster.add_simulated_nodes(1, name="weak")
    cluster.fail_node(name)
    cluster.kubectl("wait", "--for=condition=Ready=unknown", f"node/{name}", PATIENCE)
    taints = {taint["key"] for taint in cluster.get("node", name)["spec"]["taints"]}
    assert "node.kubernetes.io/unreachable" in taints
    cluster.recover_node(name)
    assert ready(cluster.get("node", name)) == "True"


def test_only_simulated_nodes_fail(cluster: Cluster) -> None:
    with pytest.raises(ClusterFailed, match="no simulated node"):
        cluster.fail_node("no-such-node")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_programs_are_of_the_versions_that_their_modules_pin(cluster: Cluster, recipe: Any) -> None:
    words = {
        "kubernetes": ("kube-apiserver", "--version"),
        "containerd": ("containerd", "--version"),
        "etcd": ("etcd", "--version"),
        "coredns": ("coredns", "-version"),
        "runc": ("runc", "--version"),
        "kwok": ("kwok", "--version"),
        "helm": ("helm", "version"),
        "kubeconform": ("kubeconform", "-v"),
        "prometheus-adapter": ("go", "version", "-m", cluster.programs["adapter"]),
    }
    program, *rest = words[recipe.name]
    path = cluster.programs[program]
    assert recipe.version in subprocess.run([path, *rest], check=True, capture_output=True, text=True).stdout


def test_a_cluster_that_is_left_leaves_nothing(node: Cluster) -> None:
    """Beside the one that the other tests share: two at once know nothing of each other."""
    before = traces()
    with Cluster() as other:
        serve_a_page(other)
        during = processes_of(other.folder)
        assert {"etcd", "kube-apiserver", "containerd", "kubelet", "pause", "python3"} <= set(during.values())
        assert traces() == before, "what it makes, it makes in its own namespaces"
        assert cgroups_of(other.folder)
    assert not alive(during)
    assert traces() == before
    assert not cgroups_of(other.folder)
    assert not other.folder.exists()
    assert "node" in node.kubectl("get", "nodes")


def test_a_cluster_whose_tests_are_killed_leaves_nothing(node: Cluster) -> None:
    del node  # says where this can't run
    before = traces()
    with owner() as process:
        folder = started(process)
        during = processes_of(folder)
        with ended(supervisor_of(folder)):
            process.kill()
    assert not alive(during)
    assert traces() == before
    assert not cgroups_of(folder)
    assert not folder.exists()


def test_a_cluster_whose_supervisor_is_killed_is_cleaned_up_by_the_next(node: Cluster) -> None:
    del node
    with owner() as process, ExitStack() as stack:
        folder = started(process)
        during = processes_of(folder)
        for each in during:
            stack.enter_context(ended(each))
        os.kill(supervisor_of(folder), signal.SIGKILL)
    assert not alive(during)
    assert folder.exists()
    supervisor.sweep()
    assert not folder.exists()
    assert not cgroups_of(folder)


def test_without_rights_there_is_a_control_plane_with_simulated_nodes() -> None:
    """Root without a capability can do no more than anybody."""
    script = """
from tests.e2e.cluster.cluster import Cluster
with Cluster() as cluster:
    print(cluster.no_containers)
    cluster.add_simulated_nodes(1, gpus=1)
    print(cluster.kubectl("get", "nodes", "--output=name"))
    print(cluster.folder)
"""
    weak = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    said = subprocess.run(
        [*weak, sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True, timeout=600
    ).stdout.split("\n")
    assert said[0].startswith(("no namespaces can be made here", "containers need root"))
    assert "node/simulated-0" in said
    assert not Path(said[-2]).exists()


def web(namespace: str, image: str, security: Mapping[str, object]) -> list[dict[str, object]]:
    """A Deployment of a web server and its Service."""
    labels = {"app": "web"}
    container = {
        "name": "web",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-u", "-c", SERVER],
        "ports": [{"containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
        "securityContext": security,
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    meta = {"name": "web", "namespace": namespace}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]},
        },
    ]


def gpu_pod(name: str, *, gpus: int) -> dict[str, object]:
    container = {"name": "serve", "image": "any", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    spec = {"containers": [container], "tolerations": [{"key": LABEL, "operator": "Exists"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def ready(node: Mapping[str, Any]) -> str:
    return next(str(each["status"]) for each in node["status"]["conditions"] if each["type"] == "Ready")


def serve_a_page(cluster: Cluster) -> None:
    name = cluster.images.base()
    cluster.load_image(cluster.images.archive(name))
    cluster.apply(*web("default", name, {}))
    cluster.kubectl("rollout", "status", "deployment/web", PATIENCE)
    assert httpx.get(cluster.service_url("web", 80), timeout=PATIENCE_S).status_code == httpx.codes.OK


def traces() -> dict[str, object]:
    """What a node would change on this machine, if it ran in no namespaces of its own."""

    def said(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return {
        "mounts": sorted(Path("/proc/self/mounts").read_text().splitlines()),
        "links": [each["ifname"] for each in json.loads(said("ip", "-json", "link"))],
        "routes": said("ip", "route"),
        "tables": said("/usr/sbin/nft", "list", "tables"),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "kept": [path for path in WHERE_NODES_WRITE if Path(path).exists()],
    }


def processes_of(folder: Path) -> dict[int, str]:
    """The cluster's processes and what they are called, known by their command line or their pod's cgroup."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "cmdline").read_text() + (entry / "cgroup").read_text()
            if folder.name in told:
                found[int(entry.name)] = (entry / "comm").read_text().strip()
        except OSError:  # it ended meanwhile
            continue
    return found


def alive(processes: Mapping[int, str]) -> dict[int, str]:
    """Those of them that still run: neither gone nor dead and waiting for their parent to take note."""
    found = {}
    for each, name in processes.items():
        with suppress(OSError):
            state = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "XZ":
                found[each] = name
    return found


def cgroups_of(folder: Path) -> list[Path]:
    return [root / folder.name for root in cgroup_roots() if (root / folder.name).exists()]


@contextmanager
def owner() -> Iterator[subprocess.Popen[str]]:
    """A process that brings a cluster up, says its folder, and waits."""
    script = """
import signal
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.test_cluster import serve_a_page
with Cluster() as cluster:
    serve_a_page(cluster)
    print(cluster.folder, flush=True)
    signal.pause()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def started(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    assert said, "The cluster did not come up; the reason is above."
    return Path(said)


def supervisor_of(folder: Path) -> int:
    holder = supervisor.holder(folder)
    assert holder is not None
    return int(str(holder["pid"]))


@contextmanager
def ended(process: int) -> Iterator[None]:
    """Waits at its end until the process, which runs now, has ended."""
    handle = os.pidfd_open(process)
    try:
        yield
        assert select.select([handle], [], [], PATIENCE_S)[0], f"{process} still runs"
    finally:
        os.close(handle)
