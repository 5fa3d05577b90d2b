"""`python -m tests.conformance https://127.0.0.1:8203`: print every case and what a server made of it."""

import argparse
import asyncio
import sys
from urllib.parse import urlsplit

from tests.conformance.client import Target
from tests.conformance.run import run_all


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    options.add_argument("url", help="https:// negotiates HTTP/2, http:// takes it for granted")
    options.add_argument("--get", default="/api/health", help="a path that answers GET with a short body")
    options.add_argument("--post", default="/api/login", help="a path that reads a JSON body")
    options.add_argument("--failed", action="store_true", help="print only what did not pass")
    asked = options.parse_args()
    url = urlsplit(asked.url)
    tls = url.scheme == "https"
    target = Target(url.hostname or "127.0.0.1", url.port or (443 if tls else 80), tls, asked.get, asked.post)
    results = asyncio.run(run_all(target))
    passed = [result for result in results if result.outcome.passed]
    for result in results:
        if asked.failed and result.outcome.passed:
            continue
        case, outcome = result.case, result.outcome
        print(f"{'pass' if outcome.passed else 'FAIL'}  {case.section:<12} {case.title}")
        if not outcome.passed:
            print(f"      wanted {case.expects.text}\n      saw    {outcome.seen}")
    print(f"{len(passed)} of {len(results)} passed")
    return 0 if len(passed) == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
