"""Pure functions from an ImageIndex to manifests: the same input gives the same bytes, and nothing is looked up.

A manifest holds exactly the fields that the operator owns, because it is applied by the server: what others set beside
them stays, what they change of them is put back.
"""

from imageindex_operator.builders.autoscaling import autoscaler, scaled_object
from imageindex_operator.builders.jobs import canaries, finish_job, index_job, schedule, tune_job
from imageindex_operator.builders.serving import deployment, disruption_budget, service

__all__ = [
    "autoscaler",
    "canaries",
    "deployment",
    "disruption_budget",
    "finish_job",
    "index_job",
    "scaled_object",
    "schedule",
    "service",
    "tune_job",
]
