"""How does a regression check stand right now: blocks, time left, the estimates so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .check_plan import CheckPlan
from .verdict import describe, judge_at
from .verdict_text import so_far


class CheckProgress:
    """Two lines on a terminal, or a plain line a block elsewhere, and what each look says; entered for the time of the measurement."""

    def __init__(self, console: Console, plan: CheckPlan) -> None:
        self._console = console
        self._plan = plan
        self._block_s = len(plan.orders[0]) * plan.slice_s + 2 * plan.warm_up_s + 1.5
        self._blocks: Sequence[Mapping[str, Any]] = ()
        self._spent_s = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> CheckProgress:
        looks = ", ".join(map(str, self._plan.looks))
        about = f"about {self._plan.looks[0] * self._block_s:.0f} s, {self._plan.looks[-1] * self._block_s:.0f} s at most"
        self._console.print(f"check: looks after {looks} blocks; {about}", highlight=False, soft_wrap=True)
        if self._live is not None:
            self._live.start()
        self.slice_begins(1, 0, "")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def measured(self, blocks: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """A block has ended."""
        self._blocks = blocks
        self._spent_s += seconds
        self._block_s = self._spent_s / len(blocks)
        if len(blocks) in self._plan.looks:
            verdict = judge_at(self._plan, blocks)
            reasons = "".join(f"; {reason}" for reason in verdict["reasons"])
            self._console.print(f"  look at {len(blocks)} blocks: {verdict['verdict']}{reasons}", highlight=False, soft_wrap=True)
        if self._live is None:
            line = f"  block {len(blocks):>2} of {self._next_look()}  {self._left():>14}  {self._estimates()}"
            self._console.print(line, highlight=False, soft_wrap=True)
        else:
            self.slice_begins(len(blocks) + 1, 0, "")

    def slice_begins(self, block: int, number: int, arm: str) -> None:
        """A slice begins: on a terminal the bar moves on."""
        if self._live is None:
            return
        look = self._next_look()
        within = number / (len(self._plan.orders[0]) + 1)
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=look, completed=min(look, block - 1 + within), width=30)
        grid.add_row(Text("check", style="bold"), bar, Text(f"block {min(block, look)} of {look}"), Text(self._left()))
        whole = Table.grid()
        whole.add_row(grid)
        whole.add_row(Text(f"  {self._estimates()}", style="dim", no_wrap=True, overflow="ellipsis"))
        self._live.update(whole, refresh=True)

    def _next_look(self) -> int:
        return next((look for look in self._plan.looks if look > len(self._blocks)), self._plan.looks[-1])

    def _left(self) -> str:
        done = len(self._blocks)
        return f"{max(0, self._next_look() - done) * self._block_s:.0f} s to the look"

    def _estimates(self) -> str:
        if len(self._blocks) < 2:
            return "so far: nothing to compare yet"
        return f"so far: {so_far([describe(gate.metric, self._blocks, self._plan) for gate in self._plan.gates])}"
