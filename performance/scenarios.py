"""What a user does from coming to leaving: the built-in scenarios, and those of a tester's own file."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from performance.fields import Fields, ScenarioError

FOLDER = Path(__file__).parent / "scenarios"
MOST_FILE_BYTES = 1 << 20
MOST_ACTS = 100
MOST_UPLOAD_BYTES = 200 << 20
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
# What every user has before the first step.
GIVEN = frozenset({"user", "avatar", "email", "password"})

Think = tuple[float, float]


@dataclass(frozen=True)
class Upload:
    """A file that is made up while it is sent."""

    field: str
    name: str
    size: int


@dataclass(frozen=True)
class Act:
    """One call of a user; texts may hold `{placeholders}`, `keep` fills them from a JSON answer."""

    name: str
    method: str
    path: str
    form: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    upload: Upload | None = None
    keep: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0
    times: tuple[int, int] = (1, 1)
    think: Think | None = None
    together: str = ""
    own_account: bool = False
    first_of_account: bool = False
    closing: bool = False

    @property
    def placeholders(self) -> set[str]:
        texts = [self.path, json.dumps(self.json), *self.form.values()]
        texts += [self.upload.name] if self.upload else []
        return {name for text in texts for name in PLACEHOLDER.findall(text)}


@dataclass(frozen=True)
class Scenario:
    """Acts in order, or a weighted mix of other scenarios, each time drawn anew."""

    name: str
    acts: tuple[Act, ...] = ()
    think: Think = (0.0, 0.0)
    mix: tuple[tuple["Scenario", float], ...] = ()

    @classmethod
    def of_call(cls, method: str, path: str, names_avatar: bool) -> "Scenario":
        """One call over and over."""
        form = {"avatar_name": "{avatar}"} if names_avatar else {}
        name = f"{method} {path}"
        return cls(name, (Act(name, method, path, form),))

    @property
    def placeholders(self) -> set[str]:
        return {name for act in self.every_act for name in act.placeholders}

    @property
    def every_act(self) -> tuple[Act, ...]:
        return self.acts + tuple(act for part, _ in self.mix for act in part.every_act)

    @property
    def needs_own_account(self) -> bool:
        return any(act.own_account or act.first_of_account for act in self.every_act)

    def drawn(self, dice: Random) -> "Scenario":
        """Return what this user does now."""
        if not self.mix:
            return self
        parts, weights = zip(*self.mix, strict=True)
        chosen: Scenario = dice.choices(parts, weights)[0]
        return chosen.drawn(dice)

    def thinking(self, think: Think) -> "Scenario":
        """Return the same with another pause after every step."""
        acts = tuple(replace(act, think=None) for act in self.acts)
        mix = tuple((part.thinking(think), weight) for part, weight in self.mix)
        return replace(self, acts=acts, think=think, mix=mix)


def built_in() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_scenario(name: str) -> Scenario:
    """Read a built-in scenario, or a file where the name ends in `.json`. Raises ScenarioError."""
    if not name.endswith(".json"):
        if name not in built_in():
            raise ScenarioError(
                f"there is no scenario {name}: choose preview, {', '.join(built_in())} or a file.json"
            )
        return _read(FOLDER / f"{name}.json")
    return _read(Path(name))


def _read(path: Path) -> Scenario:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > MOST_FILE_BYTES:
        raise ScenarioError(f"{path} is larger than a scenario can be")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"{path} is no JSON: {error}") from error
    return _scenario(Fields(path.name, found), path.stem)


def _scenario(fields: Fields, name: str) -> Scenario:
    fields.only("name", "think", "steps", "mix")
    name = fields.text("name", name)
    if fields.has("steps") == fields.has("mix"):
        raise fields.wrong("needs either steps or mix")
    if fields.has("mix"):
        weights = fields.weights("mix")
        return Scenario(name, mix=tuple((_part(fields, part), weight) for part, weight in weights))
    steps = fields.objects("steps", MOST_ACTS)
    scenario = Scenario(name, tuple(_act(step) for step in steps), fields.span("think", (0.0, 0.0)))
    _check_placeholders(fields, scenario.acts)
    return scenario


def _part(fields: Fields, name: str) -> Scenario:
    if name == "preview":
        preview = Scenario.of_call("POST", "/api/avatar/preview", names_avatar=True)
        return replace(preview, name=name, acts=(replace(preview.acts[0], name=name),), think=(1.0, 5.0))
    if name not in built_in():
        raise fields.wrong(f"mixes {name}, which is not among preview, {', '.join(built_in())}")
    part = _read(FOLDER / f"{name}.json")
    if part.mix:
        raise fields.wrong(f"mixes {name}, which is a mix itself")
    return part


def _act(fields: Fields) -> Act:
    fields.only(*(name for name in Act.__dataclass_fields__ if name != "upload"), "file")
    path = fields.text("path")
    if not path.startswith("/") or not path.isprintable():
        raise fields.wrong("path must begin with /")
    upload = fields.inner("file")
    if fields.has("json") and (fields.has("form") or upload):
        raise fields.wrong("has either json, or form and file")
    return Act(
        name=fields.text("name", path),
        method=fields.choice("method", METHODS, "GET"),
        path=path,
        form=fields.texts("form"),
        json=fields.value("json"),
        upload=None if upload is None else _upload(upload),
        keep=fields.texts("keep"),
        share=fields.number("share", 1.0, 0.0, 1.0),
        times=fields.counts("times", (1, 1)),
        think=fields.span("think", None),
        together=fields.text("together", ""),
        own_account=fields.flag("own_account"),
        first_of_account=fields.flag("first_of_account"),
        closing=fields.flag("closing"),
    )


def _upload(fields: Fields) -> Upload:
    fields.only("field", "name", "bytes")
    size = int(fields.number("bytes", 2000, 1, MOST_UPLOAD_BYTES))
    return Upload(fields.text("field", "file"), fields.text("name", "notes.txt"), size)


def _check_placeholders(fields: Fields, acts: Sequence[Act]) -> None:
    known = set(GIVEN)
    for act in acts:
        unknown = sorted(act.placeholders - known)
        if unknown:
            raise fields.wrong(f"uses {{{unknown[0]}}} in {act.name}, which no earlier step keeps")
        known |= set(act.keep)


def groups(acts: Sequence[Act]) -> Iterator[list[Act]]:
    """Acts that follow one another with the same `together` are made at once."""
    group: list[Act] = []
    for act in acts:
        if group and not (act.together and act.together == group[0].together):
            yield group
            group = []
        group.append(act)
    if group:
        yield group
