"""`python -m tests.e2e.cluster build | up | down`: the same cluster by hand."""

from __future__ import annotations

import os
import select
import signal
import sys

from tests.e2e.cluster import programs, supervisor
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.processes import ClusterFailed

PURPOSE = "a person"


def build() -> None:
    """Builds what is missing, so that no test waits for it."""
    programs.built(_say)


def up() -> None:
    """Brings a cluster up, says how to use it, and takes it down at Ctrl-C or `down`."""
    build()
    _say("Starting ...")
    cluster = Cluster(purpose=PURPOSE)
    if cluster.no_containers:
        _say(f"Simulated nodes only: {cluster.no_containers}.")
    with cluster:
        kubectl = cluster.programs["kubectl"]
        _say(
            f"""
A cluster runs. Use it from another terminal:

  export KUBECONFIG={cluster.kubeconfig}
  {kubectl} get nodes,pods --all-namespaces
  {kubectl} create deployment nothing --image=localhost/pause:1
  {kubectl} wait --for=condition=Available deployment/nothing

Ctrl-C or `make cluster-down` takes it down."""
        )
        cluster.wait()
    _say("Taken down.")


def down() -> None:
    """Ends the clusters that `up` brought up, and waits until they are gone."""
    for folder in supervisor.folders():
        holder = supervisor.holder(folder)
        if holder and holder["purpose"] == PURPOSE:
            _end(int(str(holder["pid"])))
    with programs.alone("running"):
        supervisor.sweep()


def _end(supervisor_id: int) -> None:
    process = os.pidfd_open(supervisor_id)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        select.select([process], [], [])
    finally:
        os.close(process)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command's own words


if __name__ == "__main__":
    commands = {"build": build, "up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit("usage: python -m tests.e2e.cluster build | up | down")
    try:
        commands[sys.argv[1]]()
    except (ClusterFailed, programs.ProgramMissing) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        _say("Taken down.")
