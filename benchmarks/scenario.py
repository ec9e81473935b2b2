"""What a scenario file may say: reads one, checks it, and turns it into the runs it asks for.

The fields of ``Scenario``, ``Target``, ``Load``, ``Stop`` and ``Variant`` are the keys of the file; what each may hold and means stands in
its metadata, from which the reader, the overrides of the command line and the test of ``docs/scenarios.md`` are derived.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtest.adapter_table import resolved
from loadtest.objectives import parse
from loadtest.redaction import redact_table

from .keys import ScenarioError, json_table, key, keys, lay_over, near, plain, read_table, read_value, wrong
from .workload import Load, Stop, Target, contradiction, override

CATALOGUE: Final = Path(__file__).parent / "scenarios"
SUITES: Final[Mapping[str, tuple[str, ...]]] = {
    "standard": ("ladder", "stop", "connections", "pingpong"),
    "smoke": ("smoke",),
}
"""Which scenarios a suite runs, in this order."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of several runs of a scenario (``[[variant]]``): its load and target lie over those of the scenario, key by key."""

    name: str = field(metadata=key("name", "ends the name of the run's folder"))
    target: Mapping[str, Any] = field(metadata=key("table", "keys of `[target]` that differ"))
    load: Mapping[str, Any] = field(metadata=key("table", "keys of `[load]` that differ"))
    title: str | None = field(default=None, metadata=key("text", "stands behind the scenario's title"))


@dataclass(frozen=True, slots=True)
class Run:
    """One run that a scenario asks for: with every key resolved. ``name`` is that of its folder."""

    name: str
    scenario: str
    variant: str | None
    title: str
    question: str
    target: Target
    load: Load
    thresholds: tuple[str, ...] = ()
    adapter: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The resolved run for run.json: plain JSON values, keys as in the file, absent ones left out."""
        return {
            "name": self.scenario, "variant": self.variant, "title": self.title, "question": self.question,
            "target": json_table(self.target), "load": json_table(self.load), "thresholds": list(self.thresholds),
            **({"adapter": redact_table(self.adapter)} if self.adapter else {}),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario file: one question, and the runs that answer it."""

    name: str = field(metadata=key("name", "name of the scenario, and of its run's folder"))
    title: str = field(metadata=key("text", "heading of the report"))
    question: str = field(metadata=key("text", "the one question that this scenario answers"))
    budget_s: float = field(metadata=key("number", "time for all runs of the scenario with start, drain and report", minimum=1))
    load: Load = field(metadata=key("table", "what the generator does"))
    target: Target = field(default=Target(), metadata=key("table", "how the reference server is started"))
    variant: tuple[Variant, ...] = field(default=(), metadata=key("tables", "several runs that differ in a few keys"))
    thresholds: tuple[str, ...] = field(
        default=(), metadata=key("thresholds", "what every run has to keep (`[thresholds]`); exit code 10 where one does not")
    )
    adapter: Mapping[str, Any] = field(
        default_factory=dict, metadata=key("table", "what the messages of the target mean (`[adapter]`, see docs/adapters.md)")
    )
    runs: tuple[Run, ...] = ()


SECTIONS: Final[Mapping[str, type]] = {"": Scenario, "target": Target, "load": Load, "load.stop": Stop, "variant": Variant}
"""Every table a scenario file may have, and whose fields are its keys."""


def catalogue(folder: Path = CATALOGUE) -> tuple[Scenario, ...]:
    """Every scenario of the catalogue by name, in the order of the standard suite, then by name."""
    order = {name: place for place, name in enumerate(("smoke", *SUITES["standard"]))}
    return tuple(sorted(map(read, folder.glob("*.toml")), key=lambda one: (order.get(one.name, len(order)), one.name)))


def find(name: str, folder: Path = CATALOGUE) -> Path:
    """The file of a scenario given by name or by path; ScenarioError when there is none."""
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = sorted(one.stem for one in folder.glob("*.toml"))
        hint = f"expected one of {', '.join(known)}, or the path of a .toml file"
        raise ScenarioError(f"there is no scenario {name!r}{near(name, known)}; {hint}")
    return path


def suite(name: str) -> tuple[str, ...]:
    """The scenarios of a suite; ScenarioError when there is none of that name."""
    if name not in SUITES:
        raise ScenarioError(f"there is no suite {name!r}{near(name, SUITES)}; expected one of {', '.join(SUITES)}")
    return SUITES[name]


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """Read and check one scenario file, with ``overrides`` (keys of ``[load]``) over what it says; ScenarioError says what is wrong."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScenarioError(f"expected a scenario file at {path}, and there is none") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ScenarioError(f"cannot read the scenario file {path}: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path} is not valid TOML: {error}") from None
    try:
        return _scenario(table, path.parent, overrides or {})
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _scenario(table: dict[str, Any], folder: Path, overrides: Mapping[str, Any]) -> Scenario:
    tables = {name: table.get(name, {}) for name in ("target", "load", "adapter")}
    for name, found in tables.items():
        if not isinstance(found, dict):
            raise wrong(name, keys(Scenario)[name], found)
    values = read_table(table, Scenario, "", folder, skip=("target", "load", "adapter", "variant"))
    adapter = dict(tables["adapter"])
    if "name" in adapter:
        adapter["name"] = resolved(str(adapter["name"]), folder)
    variants = _variants(table.get("variant", []))
    runs: list[Run] = []
    for variant in variants or (None,):
        where = f"variant {variant.name}: " if variant else ""
        own_target = lay_over(tables["target"], variant.target) if variant else tables["target"]
        own_load = lay_over(tables["load"], variant.load) if variant else tables["load"]
        runs.append(
            Run(
                name=f"{values['name']}-{variant.name}" if variant else values["name"],
                scenario=values["name"],
                variant=variant.name if variant else None,
                title=f"{values['title']}: {variant.title or variant.name}" if variant else values["title"],
                question=values["question"],
                target=Target(**read_table(own_target, Target, f"{where}target.", folder)),
                load=override(_load(own_load, folder, where), overrides),
                thresholds=values.get("thresholds", ()),
                adapter=adapter,
            )
        )
    target = Target(**read_table(tables["target"], Target, "target.", folder))
    scenario = Scenario(**values, adapter=adapter, target=target, load=runs[0].load, variant=variants, runs=tuple(runs))
    total = sum(run.load.seconds for run in runs)
    if not overrides and total > scenario.budget_s:
        raise ScenarioError(f"budget_s: expected at least the {plain(total)} s that its runs make load, found {plain(scenario.budget_s)}")
    return scenario


def _variants(found: Any) -> tuple[Variant, ...]:
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise wrong("variant", keys(Scenario)["variant"], found)
    variants: list[Variant] = []
    for number, one in enumerate(found, start=1):
        where = f"variant {one.get('name', number)}: "
        values = read_table(one, Variant, where, Path(), skip=("target", "load"))
        for name in ("target", "load"):
            values[name] = one.get(name, {})
            if not isinstance(values[name], dict):
                raise wrong(f"{where}{name}", keys(Variant)[name], values[name])
        variants.append(Variant(**values))
    names = [variant.name for variant in variants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ScenarioError(f"variant: expected every name once, found {min(twice)!r} twice")
    return tuple(variants)


def _load(table: dict[str, Any], folder: Path, where: str) -> Load:
    values = read_table({name: value for name, value in table.items() if name != "stop"}, Load, f"{where}load.", folder)
    if (stop := table.get("stop")) is not None:
        if not isinstance(stop, dict):
            raise wrong(f"{where}load.stop", keys(Load)["stop"], stop)
        values["stop"] = Stop(**read_table(stop, Stop, f"{where}load.stop.", folder))
    load = Load(**values)
    if message := contradiction(load, set(values)):
        raise ScenarioError(f"{where}{message}")
    return load


def with_thresholds(run: Run, asked: Sequence[str]) -> Run:
    """The run with more thresholds; one on the same figure replaces the scenario's."""
    names = {str(parse(text).name) for text in asked}
    return dataclasses.replace(run, thresholds=(*(text for text in run.thresholds if parse(text).name not in names), *asked))


def check(name: str, value: Any, section: type = Load, folder: Path = Path()) -> Any:
    """One value for a key, checked as if it stood in a file."""
    return read_value(value, keys(section)[name], name, folder)


def with_adapter(run: Run, name: str | None, table: Mapping[str, Any] | None) -> Run:
    """The run with another adapter: its name, and the table of its options in place of the scenario's."""
    chosen = dict(run.adapter if table is None else table)
    if name is not None:
        if table is None and chosen.get("name") not in (None, name):
            # The options are those of another adapter.
            chosen = {}
        chosen["name"] = name
    return dataclasses.replace(run, adapter=chosen)
