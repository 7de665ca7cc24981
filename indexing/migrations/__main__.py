"""`python -m indexing.migrations VERSION [INDEX]`: takes the ledger's tables back for an older Sightline.

Going forward needs no command. The database is the one that the settings name, or the SQLite file of the index.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.errors import SightlineError
from engine.settings import settings
from indexing.database import Database
from indexing.ledger import FILE
from indexing.migrations import downgrade


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    if not arguments or len(arguments) > 2 or arguments[0].startswith("-"):  # noqa: PLR2004 - version and index
        sys.stderr.write(f"{__doc__}\n")
        return 2
    revision, index = arguments[0], (arguments[1:] or [settings().index_name])[0]
    file = Path(settings().index_path) / index / FILE
    try:
        database = Database.named(settings(), file)
        if database.dialect == "sqlite" and not file.exists():
            sys.stderr.write(f"Error: there is no ledger {file}. Name its index after the version.\n")
            return 1
        try:
            downgrade(database, revision)
        finally:
            database.close()
    except SightlineError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    sys.stdout.write(f"{database.where} is of version {revision} now.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
