"""The addresses of the node's own network, the same in every cluster: no other network ever sees them."""

from __future__ import annotations

NODE_IP = "10.0.0.1"
SIMULATED_NODES_IP = "10.0.0.2"
DNS_IP = "10.0.0.53"
"""The node's and no Service's: kube-proxy drops what goes to a Service that it doesn't know."""
SERVICES = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"
"""The API server's, `kubernetes.default`."""
PODS = "10.244.0.0/24"
SIMULATED_PODS = "10.128.0.0/16"
DOMAIN = "cluster.local"
