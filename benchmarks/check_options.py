"""The command line of the regression check: its options, and the setup they become."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from loadtest.adapter import load_adapter, make_adapter, transport_of
from loadtest.adapter_table import read_adapter_file, resolved

from .check_plan import BASE, GATES, HEAD, LOOKS
from .check_revision import BaseTree
from .check_targets import Side, TargetError, read_side
from .options import Parser, add_access
from .options import access as access_of
from .processes import ROOT
from .reachability import Access
from .scenario import find, read
from .workload import Load

SCENARIO: Final = "regression"
ADAPTER: Final = "typewriter"
SLICES: Final = 32
SLICE_S: Final = 0.0625
WARM_UP_S: Final = 0.2
STALL_TIMEOUT_S: Final = 5.0
SERVER: Final = "-m server --quiet --port {port}"
HISTORY: Final = "history.csv"
UNUSED: Final = ("steps", "rate_per_s", "idle_share", "think_time_s", "connect_rate_per_s", "conversations_per_connection", "users_file",
                 "compression")  # fmt: skip
"""Keys of ``[load]`` that the check's generator does not know: a scenario that sets one is refused rather than changed."""


@dataclass(slots=True)
class Setup:
    """What one call of the check does."""

    sides: dict[str, Side]
    gate: str
    looks: tuple[int, ...]
    slices: int
    slice_s: float
    warm_up_s: float
    workload: dict[str, Any]
    query: tuple[tuple[str, str], ...]
    out: Path
    name: str = "check"
    seed: int | None = None
    cpu: bool = True
    access: Access = field(default_factory=Access)
    keep_tokens: bool = True
    history: Path | None = None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="python -m benchmarks check",
        description="Is head slower than base, by an amount that matters? Exit code: 0 pass, 10 regressed, 11 inconclusive, 12 invalid.",
    )
    what = top.add_argument_group("what is compared")
    what.add_argument(
        "--base", metavar="CMD|URL", help="command that starts the old server, or its URL; {port} in it is the port, also $PORT"
    )
    what.add_argument("--head", metavar="CMD|URL", help="the same for the new one (default with --base-revision: this tree's server)")
    what.add_argument(
        "--base-revision", metavar="REV", help="this repository's reference server where REV and HEAD parted, from a worktree"
    )
    what.add_argument("--base-dir", type=Path, default=Path(), metavar="FOLDER", help="where the base command runs (default: here)")
    what.add_argument("--head-dir", type=Path, default=Path(), metavar="FOLDER", help="where the head command runs (default: here)")
    what.add_argument("--path", default="/ws", metavar="PATH", help="path of the servers' WebSocket (default: /ws)")
    how = top.add_argument_group("how it is measured")
    how.add_argument("--gate", choices=tuple(GATES), default="10", help="the change in per cent that must not slip through (default: 10)")
    how.add_argument("--scenario", default=SCENARIO, metavar="NAME|FILE", help=f"whose load is made (default: {SCENARIO})")
    how.add_argument("--looks", type=_looks, default=LOOKS, metavar="N,N", help="blocks after which it may be decided (default: 10,20,30)")
    how.add_argument("--slices", type=_slices, default=SLICES, metavar="N", help=f"slices of a block, a power of two (default: {SLICES})")
    how.add_argument(
        "--slice", type=_seconds, default=SLICE_S, dest="slice_s", metavar="S", help=f"length of a slice (default: {SLICE_S:g} s)"
    )
    how.add_argument(
        "--third", choices=("cpu", "time"), default="cpu", help="the third gate: processor time a token (default), or time a token"
    )
    how.add_argument("--seed", type=int, metavar="N", help="order of the slices, prompts and stops depend on it (default: drawn)")
    access = top.add_argument_group("how the servers let us in")
    access.add_argument("--adapter", metavar="NAME", help="what their messages mean: a shipped name, module:Class or file.py:Class")
    access.add_argument(
        "--adapter-file", type=Path, metavar="FILE", help="TOML or JSON with the adapter's own options, and perhaps its name"
    )
    access.add_argument("--plain-url", action="store_true", help="no query parameters of the scenario: for servers that do not know them")
    add_access(access)
    out = top.add_argument_group("what comes of it")
    out.add_argument("--out", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of all runs (default: runs)")
    out.add_argument("--history", type=Path, metavar="FILE", help="append a row here (default: history.csv in the folder of all runs)")
    out.add_argument("--no-tokens", action="store_true", help="do not keep every token in tokens.parquet")
    out.add_argument("--shadow", action="store_true", help="report, and end with 0 whatever the verdict")
    out.add_argument("--json", action="store_true", help="the verdict on standard output, everything else on standard error")
    out.add_argument("--replay", type=Path, metavar="FILE", help="measure nothing: the verdict again from this blocks.jsonl")
    return top


def _looks(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise argparse.ArgumentTypeError(f"expected numbers of blocks such as 10,20,30, found {text!r}")
    looks = tuple(map(int, words))
    if list(looks) != sorted(set(looks)) or looks[0] < 1 or looks[-1] > 100:
        raise argparse.ArgumentTypeError(f"expected growing numbers of blocks up to 100, found {text!r}")
    return looks


def _slices(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) not in (4, 8, 16, 32, 64):
        raise argparse.ArgumentTypeError(f"expected 4, 8, 16, 32 or 64 slices, found {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.02 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"expected 0.02 to 60 seconds, found {text!r}")
    return seconds


def read_setup(given: argparse.Namespace, stack: ExitStack, console: Console) -> Setup:
    """The options as one checked object; a worktree it needs is entered on ``stack``. ScenarioError or TargetError when they are wrong."""
    load = read_load(given.scenario)
    workload = make_workload(load, *_adapter(given))
    query = () if given.plain_url else load.query_pairs
    workload["query"] = list(map(list, query))
    sides = _sides(given, workload["transport"], stack, console)
    return Setup(
        sides=sides, gate=given.gate, looks=given.looks, slices=given.slices, slice_s=given.slice_s, warm_up_s=WARM_UP_S,
        workload=workload, query=query, out=given.out, seed=given.seed,
        cpu=given.third == "cpu", access=access_of(given), keep_tokens=not given.no_tokens, history=given.history or given.out / HISTORY,
    )  # fmt: skip


def read_load(scenario: str) -> Load:
    """The load of a scenario, if the check's generator can make it."""
    runs = read(find(scenario)).runs
    if len(runs) != 1:
        raise TargetError(f"expected a scenario of one run, and {scenario} has {len(runs)}: a check compares one load at a time")
    load = runs[0].load
    if load.loop != "closed":
        raise TargetError(f"expected a closed loop in {scenario}: an open loop measures waiting too, and a check measures service time")
    blank = Load()
    if other := [name for name in UNUSED if getattr(load, name) != getattr(blank, name)]:
        raise TargetError(f"{scenario}: a check cannot make a load with load.{other[0]}; take it out of a copy of the scenario")
    if load.stop is not None and load.stop.after_tokens is None:
        raise TargetError(f"{scenario}: expected load.stop.after_tokens; a stop by time would cut a slower server's answers shorter")
    return load


def make_workload(load: Load, adapter: str = ADAPTER, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the generator does, in the words of its job; AdapterError where there is no such adapter or it refuses its options."""
    given = {"window": load.window, **(options or {})}
    made = make_adapter(load_adapter(adapter), given)
    return {
        "users": load.users, "window": load.window, "prompt_bytes": load.prompt_bytes or 40, "prompts": load.prompts, "adapter": adapter,
        "adapter_options": dict(options or {}), "transport": transport_of(made), "acknowledged": getattr(made, "window", 0) > 0,
        "stop_share": load.stop.share if load.stop else 0.0, "stop_after_tokens": load.stop.after_tokens if load.stop else None,
        "stall_timeout_s": load.stall_timeout_s or STALL_TIMEOUT_S, "query": list(map(list, load.query_pairs)),
    }  # fmt: skip


def _adapter(given: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    named, table = read_adapter_file(given.adapter_file) if given.adapter_file else (None, {})
    asked = given.adapter and resolved(given.adapter, Path.cwd())
    if named and asked and named != asked:
        raise TargetError(f"expected one adapter, and --adapter says {asked} where {given.adapter_file} says {named}")
    return asked or named or ADAPTER, table


def _sides(given: argparse.Namespace, transport: str, stack: ExitStack, console: Console) -> dict[str, Side]:
    if (given.base is None) == (given.base_revision is None):
        raise TargetError("expected either --base (a command or a URL) or --base-revision (a revision of this repository)")
    if given.base_revision is None:
        if given.head is None:
            raise TargetError("expected --head beside --base: the command or the URL of the new server")
        return {
            BASE: read_side(BASE, given.base, given.base_dir, given.path, transport=transport),
            HEAD: read_side(HEAD, given.head, given.head_dir, given.path, transport=transport),
        }
    tree = BaseTree(given.base_revision)
    console.print(f"base: {tree.name} at {tree.revision[:12]}, from a worktree", highlight=False)
    stack.enter_context(tree)
    base = read_side(BASE, f"{shlex.quote(tree.python)} {SERVER}", tree.path, given.path, f"{tree.name} ({tree.revision[:12]})")
    if given.head is not None:
        return {BASE: base, HEAD: read_side(HEAD, given.head, given.head_dir, given.path, transport=transport)}
    return {BASE: base, HEAD: read_side(HEAD, f"{shlex.quote(sys.executable)} {SERVER}", ROOT, given.path, "this tree")}
