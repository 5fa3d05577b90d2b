"""Calls made up from the API document, right and wrong ones, against a gateway with everything behind it.

python -m tests.contract.fuzz [--seconds 300] [--examples 300] [--seed 1] [--only /api/chat]

No answer may have a status, a content type or a field that the document does not promise; 500 is none.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from schemathesis import Case, GenerationMode

from tests.contract.stage import Scene, opened_scene
from tests.support.document import Document
from tests.support.gateway import PASSWORD

ROLES = ("student", "tutor")
CALL_SECONDS = 30
# Limits of the gateway that would answer 429 to everything after a moment.
UNLIMITED = {f"gateway_{kind}_limit": "100000/second" for kind in ("login", "code", "address", "chat")}
# These end the caller's own account or sign-in: they come last.
ENDING = ("/api/logout", "/api/update_password", "/api/user/delete_account", "/api/admin/users/{")
# A tutor's answer would never end.
ENDLESS = ("/api/stats/stream",)


@dataclass
class Findings:
    """What came back: answers by status, and each that was not promised, once for every operation."""

    statuses: Counter[int] = field(default_factory=Counter)
    calls: int = 0
    operations: set[str] = field(default_factory=set)
    wrong: dict[str, str] = field(default_factory=dict)


@dataclass
class Fuzzer:
    url: str
    document: Document
    examples: int
    seed: int
    seconds: float
    only: str = ""
    findings: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        self._tokens: dict[str, str] = {}
        self._session = requests.Session()
        self._session.trust_env = False

    def run(self) -> Findings:
        """Go through every operation, for both roles; each has its share of the time."""
        schema = schemathesis.openapi.from_dict(self.document.content)
        found = [result.ok() for result in schema.get_all_operations()]
        operations = sorted(
            (one for one in found if self.only in one.path),
            key=lambda one: (one.path.startswith(ENDING), one.path, one.method),
        )
        rounds = [
            (role, operation, mode)
            for operation in operations
            for role in ROLES
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            if role != "tutor" or operation.path not in ENDLESS
        ]
        for role, operation, mode in rounds:
            self._round(role, operation, mode, self.seconds / len(rounds))
        return self.findings

    def _round(self, role: str, operation: Any, mode: GenerationMode, seconds: float) -> None:
        self._sign_in(role)
        if operation.path.startswith("/api/webrtc"):
            self._start_avatar(role)
        end = time.monotonic() + seconds
        kept = self.examples if mode is GenerationMode.POSITIVE else max(1, self.examples // 2)

        @seeded(self.seed)
        @settings(
            max_examples=kept,
            database=None,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Case) -> None:
            if time.monotonic() < end:
                self._call(role, case)

        self.findings.operations.add(operation.label)
        try:
            one()
        except schemathesis.errors.InvalidSchema:
            raise
        except Exception as exc:
            # Where there is nothing that could be wrong, there are no wrong cases to make.
            if mode is GenerationMode.POSITIVE or "Unsatisfiable" not in type(exc).__name__ + str(exc):
                raise

    def _call(self, role: str, case: Case) -> None:
        headers = {"Authorization": f"Bearer {self._tokens[role]}"}
        try:
            answer = case.call(
                base_url=self.url, session=self._session, headers=headers, timeout=CALL_SECONDS
            )
        except (requests.exceptions.InvalidHeader, UnicodeError, ValueError):
            return  # what no client can send
        self.findings.calls += 1
        self.findings.statuses[answer.status_code] += 1
        if answer.status_code == 401 and case.operation.path != "/api/login":
            self._sign_in(role)
        self._judge(role, case, answer)

    def _judge(self, role: str, case: Case, answer: Any) -> None:
        label = f"{case.operation.label} as {role}"
        lines = [(name, value) for name, values in answer.headers.items() for value in values]
        request = httpx.Request(answer.request.method or "GET", answer.request.url or self.url)
        response = httpx.Response(answer.status_code, headers=lines, content=answer.content, request=request)
        method, template = case.operation.method.upper(), case.operation.path
        promised = self.document.responses(method, template)
        if request.method != method or answer.status_code in promised:
            wrong = self.document.undocumented(request.method, request.url.path, response)
        elif answer.status_code in (404, 405) and "{" in template:
            wrong = []  # what was put into the path leads to another route
        else:
            wrong = [f"status {answer.status_code} is not documented"]
        if wrong and label not in self.findings.wrong:
            self.findings.wrong[label] = f"{'; '.join(wrong)}\n{case.as_curl_command()}\n{answer.text[:300]}"

    def _start_avatar(self, role: str) -> None:
        """Without an instance of one's own, signalling says no more than that."""
        headers = {"Authorization": f"Bearer {self._tokens[role]}"}
        form = {"avatar_name": "test_yongen"}
        answer = self._session.post(
            f"{self.url}/api/avatar/start", data=form, headers=headers, timeout=CALL_SECONDS
        )
        assert answer.status_code == 200, answer.text

    def _sign_in(self, role: str) -> None:
        token = self._tokens.get(role)
        if token is not None:
            headers = {"Authorization": f"Bearer {token}"}
            if self._session.get(f"{self.url}/api/token_status", headers=headers).status_code == 200:
                return
        content = {"email": f"{role}@test.local", "password": PASSWORD}
        answer = self._session.post(f"{self.url}/api/login", json=content, timeout=CALL_SECONDS)
        assert answer.status_code == 200, f"{role}: {answer.text}"
        self._tokens[role] = answer.json()["token"]


async def fuzz(scene: Scene, *, examples: int, seed: int, seconds: float, only: str = "") -> Findings:
    """Run the calls in a thread while the gateway serves on this loop."""
    fuzzer = Fuzzer(scene.served.url, scene.served.document, examples, seed, seconds, only)
    return await asyncio.to_thread(fuzzer.run)


async def _main(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with opened_scene(Path(folder), **UNLIMITED) as scene:
            findings = await fuzz(
                scene,
                examples=arguments.examples,
                seed=arguments.seed,
                seconds=arguments.seconds,
                only=arguments.only,
            )
    for label, wrong in findings.wrong.items():
        say(f"\n{label}\n{wrong}")
    statuses = ", ".join(f"{count} times {status}" for status, count in sorted(findings.statuses.items()))
    say(f"\n{findings.calls} calls of {len(findings.operations)} operations: {statuses}")
    say(f"{len(findings.wrong)} answers that the document does not promise")
    return 1 if findings.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contract.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="for everything together")
    parser.add_argument("--examples", type=int, default=300, help="for each operation and role")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the path")
    logging.disable(logging.WARNING)  # what the gateway says of each refusal
    return asyncio.run(_main(parser.parse_args(), print))


if __name__ == "__main__":
    sys.exit(main())
