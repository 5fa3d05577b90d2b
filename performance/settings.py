"""One run as asked for."""

from dataclasses import dataclass, field
from pathlib import Path

from performance.scenarios import Scenario

CHECKS = ("/api/ping", "/api/health", "/api/token_status", "/api/avatar/list", "/api/tts/models")


@dataclass(frozen=True)
class Call:
    """The request that every user of a ladder makes once."""

    method: str
    path: str
    names_avatar: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


CALLS = {
    "preview": Call("POST", "/api/avatar/preview", names_avatar=True),
    "list": Call("GET", "/api/avatar/list"),
    "start": Call("POST", "/api/avatar/start", names_avatar=True),
    "models": Call("GET", "/api/tts/models"),
}


@dataclass(frozen=True)
class Account:
    """Who signs in; with a token nobody does, and the others are empty."""

    email: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Target:
    """The gateway, and whom it knows."""

    base_url: str
    account: Account
    timeout: float
    accounts: tuple[Account, ...] = ()
    ca: Path | None = None

    @property
    def secrets(self) -> list[str]:
        """What no text of a report may show."""
        known = (self.account, *self.accounts)
        return [secret for one in known for secret in (one.password, one.token) if secret]


@dataclass(frozen=True)
class Load:
    """How much is asked of it; seconds throughout."""

    users: tuple[int, ...]
    rounds: int = 1
    warm_up: float = 0.0
    cold: bool = False
    serial_calls: int = 3
    duration: float | None = None
    calls: int | None = None
    ramp_up: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Outputs:
    """Where the figures go."""

    json: Path | None = None
    markdown: Path | None = None
    plot: Path | None = None
    html: Path | None = None
    quiet: bool = False

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.json, self.markdown, self.plot, self.html) if path is not None]


@dataclass(frozen=True)
class Settings:
    """Without a scenario users climb a ladder of simultaneous calls, with one they live through it."""

    target: Target
    load: Load
    outputs: Outputs
    call: Call
    avatar: str = ""
    scenario: Scenario | None = None
    limit_seconds: float | None = None
    claims_seconds: float | None = None
    ask_first: bool = False

    @property
    def title(self) -> str:
        return str(self.call) if self.scenario is None else f"scenario {self.scenario.name}"

    @property
    def needs_avatar(self) -> bool:
        if self.avatar:
            return False
        return self.call.names_avatar if self.scenario is None else "avatar" in self.scenario.placeholders

    @property
    def needed_checks(self) -> set[str]:
        """Paths without which the run would measure nothing but failures."""
        needed = {"/api/avatar/list"} if self.needs_avatar else set()
        if self.scenario is None and self.call in CALLS.values():
            needed |= {"/api/token_status", self.call.path}
        return needed & set(CHECKS)

    @property
    def planned_calls(self) -> int | None:
        """Calls that will be made; None where time is the limit."""
        load = self.load
        if self.scenario is not None:
            return None if load.calls is None else load.calls * load.rounds * len(load.users)
        return sum(load.users) * load.rounds + load.serial_calls

    @property
    def longest_seconds(self) -> float:
        """When the run ends at the latest: login, checks, serial calls and steps take one timeout each."""
        load, steps = self.load, len(self.load.users) * self.load.rounds
        seconds = self.target.timeout * (1 + len(CHECKS) + steps) + load.warm_up * steps
        if self.scenario is None:
            # Warming up makes whole calls, the last of which may begin just before its end.
            seconds += self.target.timeout * (load.serial_calls + (1 if load.warm_up else 0))
            return seconds + (self.claims_seconds or 0.0)
        return seconds + (load.duration or 0.0) * steps
