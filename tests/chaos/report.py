"""What a run of kills showed, for people and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Kill:
    """One SIGKILL that hit a running process: whom, what indexing was doing then, and the seconds until it got on."""

    round: int
    victim: str
    during: str
    recovery_s: float | None = None


@dataclass(slots=True)
class Report:
    """The figures. `restarts` counts, by kind of job and exit code, who ended otherwise than by a kill or well."""

    seed: int
    wanted: int
    verdict: str = "not finished"
    seconds: float = 0.0
    rounds: int = 0
    changes: int = 0
    pictures: int = 0
    other_files: int = 0
    kills: list[Kill] = field(default_factory=list)
    restarts: dict[str, int] = field(default_factory=dict)
    searches: dict[str, Any] = field(default_factory=dict)

    @property
    def by_victim(self) -> Counter[str]:
        """Kills by victim."""
        return Counter(kill.victim for kill in self.kills)

    @property
    def by_moment(self) -> dict[str, Counter[str]]:
        """Kills by what indexing was doing then, the most frequent first, and for each by victim."""
        moments = Counter(kill.during for kill in self.kills)
        return {
            moment: Counter(kill.victim for kill in self.kills if kill.during == moment)
            for moment, _ in moments.most_common()
        }

    def as_json(self) -> str:
        """Everything, with the sums that people look for first."""
        told = asdict(self) | {"by_victim": self.by_victim, "by_moment": self.by_moment}
        kills = told.pop("kills")
        return json.dumps(told | {"kills": kills}, indent=1, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.as_json(), encoding="utf-8")

    def __str__(self) -> str:
        """The figures in lines."""
        recovered = sorted((kill for kill in self.kills if kill.recovery_s is not None), key=_recovery)
        victims = [victim for victim, _ in self.by_victim.most_common()]
        searches = [f"{name} {_short(value)}" for name, value in self.searches.items()]
        lines = [
            f"verdict    {self.verdict}",
            f"seed       {self.seed}",
            f"kills      {len(self.kills)} of {self.wanted} in {self.rounds} rounds and {self.seconds:.0f} s",
            f"pictures   {self.pictures}, other files {self.other_files}, changes {self.changes}",
            f"searches   {', '.join(searches) or 'none'}",
        ]
        if recovered:
            median, worst = recovered[len(recovered) // 2], recovered[-1]
            lines.append(
                f"got on     after {median.recovery_s:.1f} s in the median, {worst.recovery_s:.1f} s at most "
                f"({worst.victim}, {worst.during})"
            )
        lines += ["", f"{'killed':22}" + "".join(f"{victim:>14}" for victim in victims)]
        lines.append(f"{'all':22}" + "".join(f"{self.by_victim[victim]:14}" for victim in victims))
        for moment, counts in self.by_moment.items():
            lines.append(f"{moment:22}" + "".join(f"{counts[victim] or '':14}" for victim in victims))
        lines += ["", "ended otherwise than by a kill, and started again"]
        lines += [f"{count:6} {what}" for what, count in sorted(self.restarts.items())]
        return "\n".join(line.rstrip() for line in lines)


def _short(value: Any) -> str:
    """Counts by name in one word after the other."""
    if isinstance(value, dict):
        return " ".join(f"{name} {count}" for name, count in value.items()) or "0"
    return str(value)


def _recovery(kill: Kill) -> float:
    return kill.recovery_s or 0.0
