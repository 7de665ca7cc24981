"""`sightline`, with what tests change of it: the variables DELETION_S and DIES_BEFORE_WRITE say what.

The first is the time after which a resource is let go whose data can't be deleted, ten minutes otherwise. The second
has the process killed right before it changes something for the so many-th time, at the API server or at Qdrant.
"""

from __future__ import annotations

import os
import signal
from itertools import count

from imageindex_operator import plan
from imageindex_operator.reconcile import Reconciler

import sightline


def main() -> None:
    """Runs it."""
    if seconds := os.environ.pop("DELETION_S", ""):
        plan.DELETION_S = float(seconds)  # type: ignore[misc,assignment]
    if last := os.environ.pop("DIES_BEFORE_WRITE", ""):
        check, writes = Reconciler._check, count(1)

        def checked(self: Reconciler) -> None:
            if next(writes) == int(last):
                os.kill(os.getpid(), signal.SIGKILL)
            check(self)

        Reconciler._check = checked  # type: ignore[method-assign]
    sightline.main()


if __name__ == "__main__":
    main()
