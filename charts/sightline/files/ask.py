"""What `helm test` asks the API: is it ready, and what does it say of its parts. Exit status 1 with a reason if not.

Usage: python3 ask.py ADDRESS. With the standard library alone.
"""

import json
import sys
import urllib.error
import urllib.request

QUERY = "{ health { status encoderLoaded cacheReachable } indexes { name ready } }"


def ask(address: str, body: dict[str, str] | None = None) -> dict:
    """The JSON that is answered, with any status."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})  # noqa: S310 - the chart's own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.loads(error.read() or b"{}")


def main() -> None:
    """Asks."""
    address = sys.argv[1]
    ready = ask(f"{address}/readyz")
    if ready.get("status") != "ready":
        sys.exit(f"{address}/readyz says: {ready}")
    answer = ask(f"{address}/graphql", {"query": QUERY})
    if answer.get("errors") or not answer.get("data", {}).get("health", {}).get("encoderLoaded"):
        sys.exit(f"{address}/graphql says: {answer}")
    sys.stdout.write(f"{json.dumps(answer['data'])}\n")


if __name__ == "__main__":
    main()
