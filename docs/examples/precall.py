"""A check before a call: what may it expect, and what is wrong with the servers?

    python precall.py stun:stun.example.org turn:turn.example.org --username U --password P

What is found is told as it is found, the verdict at the end; at most four seconds. Exit status: 0 calls will connect,
3 with some peers only, or not at all, or it cannot be told.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing
from typing import Any

from natprobe.webrtc import Finished, NatClassified, Preflight, Readiness, ServerChecked, preflight_events


async def check(config: Any) -> Preflight:
    async with aclosing(preflight_events(config)) as events:
        async for event in events:
            match event:
                case ServerChecked(at, checks):
                    for one in checks:
                        print(f"{at:5.2f} s  {one.url}: {one.reason or one.state}", file=sys.stderr)
                case NatClassified(at, report):
                    udp = report.ipv4 and report.ipv4.udp
                    print(f"{at:5.2f} s  mapping {udp and udp.mapping.value}", file=sys.stderr)
                case Finished(result=result):
                    return result
    raise AssertionError("the last event is the result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--username")
    parser.add_argument("--password")
    parser.add_argument("--json", action="store_true", help="print all of it, for programs")
    options = parser.parse_args()
    server = {"urls": options.urls, "username": options.username, "credential": options.password}
    result = asyncio.run(check({"iceServers": [server]}))
    if options.json:
        print(result.dumps())
    else:
        print(f"{result.verdict.value or 'not determined'}: {result.verdict.reason}", *result.advice, sep="\n  ")
    sys.exit(0 if result.verdict.value is Readiness.READY else 3)


if __name__ == "__main__":
    main()
