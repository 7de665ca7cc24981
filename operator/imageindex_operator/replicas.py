"""From the generation that should serve to the replicas that serve it: warm first, then traffic, then the old ones go.

Each template of the pods is a Deployment of its own. While the Service leads to one, the next warms up beside it; the
Service moves when that is available, and the one before stays for `rollout.scaleDownDelaySeconds` to go back to.
"""

from __future__ import annotations

from typing import Final

from imageindex_operator.actions import Apply, Delete, Seed
from imageindex_operator.builders import autoscaler, deployment, disruption_budget, scaled_object, service
from imageindex_operator.builders.pods import Manifest
from imageindex_operator.draft import Draft
from imageindex_operator.names import OWNER, SERVING
from imageindex_operator.observed import Deployment

_SCALERS: Final = {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}


def plan(draft: Draft) -> bool:
    """What is next for the replicas; whether traffic goes to ones that are warm for `draft.target`.

    True too where nothing serves that could be disturbed.
    """
    resource = draft.resource
    if draft.target is None or (draft.active is None and not _alias_is_there(draft)):
        _count(draft, None)
        return True
    revision = draft.revision(draft.target)
    manifest = deployment(resource, draft.config, (revision.model, revision.pretrained), revision.ef)
    wanted = manifest["metadata"]["labels"][SERVING]
    there = {one.revision: one for one in draft.seen.deployments()}
    serving = draft.seen.serving_revision(resource.name)
    green, blue = there.get(wanted), there.get(serving or "")
    draft.actions.append(Apply(disruption_budget(resource)))
    _apply(draft, manifest, green, blue if serving != wanted else None)
    handed_over = serving in {None, wanted} or resource.spec.suspend or _may_take_over(draft, green, blue)
    leads_to = wanted if handed_over or serving is None else serving
    draft.actions.append(Apply(service(resource, leads_to)))
    if serving not in {None, leads_to}:
        draft.handed_over_at = draft.now
        draft.note("HandedOver", f"Searches go to replicas {wanted} now, instead of {serving}.")
    _scale(draft, leads_to)
    _retire(draft, there, {wanted, leads_to, serving})
    _give_up(draft, green, serving)
    _count(draft, there.get(leads_to))
    draft.selector = f"{OWNER}={resource.name},{SERVING}={leads_to}"
    takes = there.get(leads_to)
    return (serving == wanted and takes is not None and takes.available > 0) or _nothing_serves(takes)


def _apply(draft: Draft, manifest: Manifest, green: Deployment | None, blue: Deployment | None) -> None:
    """The wanted replicas; where an autoscaler counts them, they begin with as many as serve now."""
    scaled, lets_go = "replicas" not in manifest["spec"], False
    if scaled and green is not None:
        least = max(green.replicas, draft.resource.spec.serving.autoscaling.min)
        start = max(least, blue.replicas) if blue else least
        lets_go = green.owns_replicas
        if lets_go or (blue and green.replicas < start):
            draft.actions.append(Seed(green.name, start))
    draft.actions.append(Apply(manifest, anew=lets_go))


def _may_take_over(draft: Draft, green: Deployment | None, blue: Deployment | None) -> bool:
    """Whether the new replicas are as many as needed; one is enough where the old ones are gone."""
    if green is None or not green.settled:
        return False
    if blue is None or blue.available == 0:
        return green.available > 0
    asked = draft.resource.spec.serving.wanted_replicas
    return green.available >= (blue.replicas if asked is None else asked)


def _scale(draft: Draft, revision: str) -> None:
    """The autoscaler of the replicas with the traffic, there exactly while one is asked for."""
    resource = draft.resource
    kind = None if resource.spec.suspend else _SCALERS.get(resource.spec.serving.autoscaling.class_)
    if kind == "HorizontalPodAutoscaler":
        draft.actions.append(Apply(autoscaler(resource, revision)))
    elif kind == "ScaledObject":
        draft.actions.append(Apply(scaled_object(resource, revision, draft.config)))
    name = f"{resource.name}-serving"
    draft.actions += [
        Delete(other, name) for other in _SCALERS.values() if other != kind and (other, name) in draft.seen.children
    ]


def _retire(draft: Draft, there: dict[str, Deployment], kept: set[str | None]) -> None:
    """Deletes revisions that nothing leads to, some time after the handover."""
    old = [one for revision, one in there.items() if revision not in kept]
    if not old or draft.within(draft.handed_over_at, draft.resource.spec.rollout.scale_down_delay_seconds):
        return
    draft.actions += [Delete("Deployment", one.name) for one in old]


def _give_up(draft: Draft, green: Deployment | None, serving: str | None) -> None:
    """A new revision that does not come up: the generation it was for is not promoted, and the old one goes on."""
    if green is None or not green.stuck or green.revision == serving:
        return
    message = f"Replicas {green.revision} do not become available ({green.stuck}). Those before go on serving."
    if draft.target == draft.pending and draft.target != draft.active:
        draft.reject("ServingFailed", message)
    else:
        draft.blocked = ("ServingRolloutStuck", message)


def _count(draft: Draft, serving: Deployment | None) -> None:
    draft.replicas = serving.replicas if serving else 0
    draft.ready_replicas = serving.available if serving else 0


def _alias_is_there(draft: Draft) -> bool:
    return draft.seen.stored is not None and draft.seen.stored.current is not None


def _nothing_serves(takes: Deployment | None) -> bool:
    return takes is None or takes.available == 0
