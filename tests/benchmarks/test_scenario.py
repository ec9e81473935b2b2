"""The catalogue as it stands, and every mistake in a scenario file as one sentence."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from benchmarks.keys import ScenarioError, keys
from benchmarks.options import overrides, parse
from benchmarks.scenario import CATALOGUE, SECTIONS, SUITES, Scenario, catalogue, find, read, suite, with_thresholds
from benchmarks.workload import Load, override
from loadtest.metrics import MINIMUM_SAMPLES

ROOT = Path(__file__).parents[2]
WHOLE = """
name = "mine"
title = "Mine"
question = "Is it?"
budget_s = 30

[load]
users = 10
run_time_s = 5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read_text(folder: Path, text: str, **overrides: object) -> Scenario:
    return read(write(folder, text), overrides)


class TestCatalogue:
    def test_every_file_is_read_and_bears_its_name(self) -> None:
        assert {scenario.name for scenario in catalogue()} == {path.stem for path in CATALOGUE.glob("*.toml")}

    def test_it_has_the_questions(self) -> None:
        known = {scenario.name for scenario in catalogue()}
        assert known >= {"smoke", "ladder", "stop", "connections", "pingpong", "connections-25k"}
        assert all(scenario.question.endswith("?") for scenario in catalogue())

    def test_suites_name_scenarios_of_the_catalogue(self) -> None:
        known = {scenario.name for scenario in catalogue()}
        assert all(set(members) <= known for members in SUITES.values())

    def test_the_standard_suite_keeps_to_two_minutes(self) -> None:
        assert sum(read(find(name)).budget_s for name in SUITES["standard"]) <= 120

    def test_stop_runs_with_windows_1_and_8_and_without_acknowledgements(self) -> None:
        runs = {run.name: run for run in read(find("stop")).runs}
        assert {name: run.load.window for name, run in runs.items()} == {"stop-window-1": 1, "stop-window-8": 8, "stop-no-acks": 0}
        assert all(run.load.stop is not None and run.load.stop.share == 1 for run in runs.values())

    def test_stop_sees_conversations_enough_for_its_p99(self) -> None:
        for run in read(find("stop")).runs:
            load = run.load
            assert load.stop is not None
            assert load.stop.after_tokens is not None
            assert load.gap_ms is not None
            longest_s = (load.ttft_ms or 0) / 1e3 + (load.stop.after_tokens[1] + 1) * load.gap_ms / 1e3
            assert load.users_max * (load.seconds - load.warm_up_s) / longest_s > MINIMUM_SAMPLES[0.99]

    def test_the_ladder_runs_on_real_lengths(self) -> None:
        (run,) = read(find("ladder")).runs
        assert dict(run.load.query)["lengths"] == "chat"
        assert [users for users, _ in run.load.steps] == sorted({users for users, _ in run.load.steps})

    def test_connections_are_thousands_and_some_of_them_converse(self) -> None:
        (run,) = read(find("connections")).runs
        assert run.load.users_max >= 2000
        assert 0.5 < run.load.idle_share < 1

    def test_25k_connections_all_converse_slowly_and_nothing_is_cut(self) -> None:
        (run,) = read(find("connections-25k")).runs
        load = run.load
        assert (load.users_max, load.idle_share, load.processes, run.target.processes) == (25_000, 0, 2, 2)
        assert load.gap_ms is not None
        assert load.gap_ms >= 2500
        assert load.window == 1
        answer_s = (load.tokens - 1) * load.gap_ms / 1e3 + (load.ttft_ms or 0) / 1e3
        assert load.stop_timeout_s > answer_s
        assert load.warm_up_s > load.users_max / load.connect_rate_per_s
        assert len(load.source_addresses) == 3
        assert "--source-address=127.0.0.1,127.0.0.2,127.0.0.3" in load.options()

    def test_churn_connects_for_each_conversation_as_fast_as_it_goes(self) -> None:
        (run,) = read(find("churn")).runs
        assert run.load.conversations_per_connection == 1
        assert run.load.connect_rate_per_s >= 10_000

    def test_what_is_asked_over_http_has_an_adapter_and_a_place(self) -> None:
        listening = "ws://127.0.0.1:8001/ws"
        expected = {"events": ("sse", "http://127.0.0.1:8001/sse?prompt=hello"), "completions": ("openai-chat", "")}
        for name, (adapter, url) in expected.items():
            (run,) = read(find(name)).runs
            assert run.adapter["name"] == adapter
            assert run.target.module == "server.fastapi_app"
            assert run.target.url(listening) == (url or "http://127.0.0.1:8001/v1/chat/completions")
        (run,) = read(find("smoke")).runs
        assert (run.target.module, run.target.url(listening)) == ("server", listening)


class TestReading:
    def test_a_whole_file(self, tmp_path: Path) -> None:
        scenario = read_text(
            tmp_path, WHOLE + '[load.query]\nlengths = "chat"\ncpu_us = 5\n[target]\nprocesses = 2\noptions = { text = "words" }\n'
        )
        (run,) = scenario.runs
        assert (run.name, run.variant, run.load.users, run.load.run_time_s) == ("mine", None, 10, 5)
        assert run.load.query == (("lengths", "chat"), ("cpu_us", "5"))
        assert run.target.arguments() == ["--processes=2", "--text=words"]

    def test_variants_lie_over_the_scenario_key_by_key(self, tmp_path: Path) -> None:
        text = WHOLE + (
            "window = 4\n[load.stop]\nshare = 0.5\nafter_tokens = [1, 2]\n"
            '[[variant]]\nname = "plain"\nload = {}\n'
            '[[variant]]\nname = "half"\ntitle = "half as much"\nload = { users = 5, stop = { share = 0.25 } }\n'
            "target = { processes = 2 }\n"
        )
        one, two = read_text(tmp_path, text).runs
        assert (one.name, one.load.users, one.load.stop and one.load.stop.share, one.target.processes) == ("mine-plain", 10, 0.5, 1)
        assert (two.name, two.load.users, two.load.stop and two.load.stop.share, two.target.processes) == ("mine-half", 5, 0.25, 2)
        assert two.load.stop is not None
        assert two.load.stop.after_tokens == (1, 2)
        assert two.load.window == 4
        assert two.title == "Mine: half as much"

    def test_files_are_found_beside_the_scenario(self, tmp_path: Path) -> None:
        (tmp_path / "prompts.txt").write_text("hello\n", encoding="utf-8")
        (run,) = read_text(tmp_path, WHOLE + 'prompts = "prompts.txt"\n').runs
        assert run.load.prompts == str(tmp_path / "prompts.txt")

    def test_the_resolved_run_is_plain_json(self, tmp_path: Path) -> None:
        (run,) = read_text(tmp_path, WHOLE + "[load.stop]\nafter_tokens = [3, 4]\n").runs
        table = json.loads(json.dumps(run.as_dict()))
        assert table["name"] == "mine"
        assert table["load"]["stop"] == {"share": 1.0, "after_tokens": [3, 4]}
        assert "steps" not in table["load"]

    def test_everything_is_frozen(self, tmp_path: Path) -> None:
        scenario = read_text(tmp_path, WHOLE)
        with pytest.raises(dataclasses.FrozenInstanceError):
            scenario.name = "other"  # type: ignore[misc]


USERS = "load.users: expected a whole number from 1 to 1000000, found "
LOWER = "expected a name of lower-case letters, digits and '-', found "
NEITHER = "load.stop: expected either after_tokens or after_ms"
MISTAKES = {
    "unknown key": (WHOLE + "[load.stop]\nshares = 1\n", "load.stop.shares is not a key of a scenario (did you mean share?)"),
    "unknown key at the top": ("titel = 'x'\n" + WHOLE, "titel is not a key of a scenario (did you mean title?)"),
    "unknown key of the load": (WHOLE + "gap = 20\n", "load.gap is not a key"),
    "unknown key of the target": (WHOLE + "[target]\nprocess = 2\n", "target.process is not a key of a scenario (did you mean processes?)"),
    "a text for a number": (WHOLE.replace("users = 10", 'users = "ten"'), USERS + "'ten'"),
    "a fraction of a user": (WHOLE.replace("users = 10", "users = 1.5"), USERS + "1.5"),
    "true for a number": (WHOLE.replace("users = 10", "users = true"), USERS + "true"),
    "no users": (WHOLE.replace("users = 10", "users = 0"), USERS + "0"),
    "a number that is none": (WHOLE + "think_time_s = nan\n", "load.think_time_s: expected a number from 0 on, found nan"),
    "a share above one": (WHOLE + "idle_share = 1.5\n", "load.idle_share: expected a number from 0 to 1, found 1.5"),
    "a negative gap": (WHOLE + "gap_ms = -5\n", "load.gap_ms: expected a number from 0 on, found -5"),
    "a number for a flag": (WHOLE + "compression = 1\n", "load.compression: expected true or false, found 1"),
    "a loop of another kind": (WHOLE + 'loop = "half"\n', 'load.loop: expected "closed" or "open", found \'half\''),
    "an empty title": (WHOLE.replace('"Mine"', '" "'), "title: expected a text that is not empty, found ' '"),
    "a name with blanks": (WHOLE.replace('"mine"', '"my own"'), "name: " + LOWER + "'my own'"),
    "no question": (WHOLE.replace('question = "Is it?"', ""), "expected question (the one question that this"),
    "no budget": (WHOLE.replace("budget_s = 30", ""), "expected budget_s ("),
    "a budget too small": (WHOLE.replace("budget_s = 30", "budget_s = 4"), "budget_s: expected at least the 5 s that its runs"),
    "no users at all": (WHOLE.replace("users = 10", ""), "expected load.users (and load.run_time_s), or load.steps"),
    "no end": (WHOLE.replace("run_time_s = 5", ""), "expected load.run_time_s beside load.users"),
    "steps and users": (WHOLE + "steps = [[1, 2]]\n", "so expected no load.run_time_s beside it"),
    "steps of one number": (WHOLE + "steps = [[1]]\n", "load.steps: expected a list of [users, seconds]"),
    "steps without time": (WHOLE + "steps = [[1, 0]]\n", "load.steps: expected a list of [users, seconds]"),
    "warm-up longer than the load": (WHOLE + "warm_up_s = 5\n", "load.warm_up_s: expected less than the 5 s of load, found 5"),
    "open loop without a rate": (WHOLE + 'loop = "open"\n', "expected load.rate_per_s with the open loop"),
    "a rate in the closed loop": (WHOLE + "rate_per_s = 5\n", 'load.rate_per_s needs load.loop = "open"'),
    "a stop that is never": (WHOLE + "[load.stop]\nshare = 1\n", NEITHER),
    "a stop twice": (WHOLE + "[load.stop]\nafter_tokens = [1, 2]\nafter_ms = [1, 2]\n", NEITHER),
    "a range upside down": (WHOLE + "[load.stop]\nafter_tokens = [5, 2]\n", "load.stop.after_tokens: expected two whole numbers"),
    "stop is no table": (WHOLE + "stop = 1\n", "load.stop: expected a table, found 1"),
    "load is no table": (WHOLE.replace("[load]\nusers = 10\nrun_time_s = 5", "load = 3"), "load: expected a table, found 3"),
    "a query of lists": (WHOLE + "query = { tokens = [1] }\n", "load.query: expected a table of query parameters"),
    "an address that is none": (WHOLE + 'source_addresses = ["127.0.0.300"]\n', "load.source_addresses: expected a list of IP addresses"),
    "an address that is a number": (WHOLE + "source_addresses = [1]\n", "load.source_addresses: expected a list of IP addresses"),
    "addresses that are no list": (WHOLE + "source_addresses = 1\n", "load.source_addresses: expected a list of IP addresses"),
    "a prompt file that is not there": (WHOLE + 'prompts = "none.txt"\n', "load.prompts: expected the path of an existing file"),
    "variants that are no tables": ("variant = 3\n" + WHOLE, "variant: expected a list of tables ([[variant]]), found 3"),
    "a variant without a name": (WHOLE + "[[variant]]\nload = {}\n", "expected variant 1: name"),
    "a mistake in a variant": (WHOLE + '[[variant]]\nname = "a"\nload = { windw = 1 }\n', "variant a: load.windw is not a key"),
    "a variant twice": (WHOLE + '[[variant]]\nname = "a"\n[[variant]]\nname = "a"\n', "variant: expected every name once, found 'a' twice"),
    "thresholds": (WHOLE + '[thresholds]\nttft_p98 = "< 50ms"\n', "thresholds: expected one of p50, p90"),
    "a threshold that is no text": (WHOLE + "[thresholds]\nttft_p99 = 50\n", "thresholds: expected figures and their bounds"),
    "a limit with a percentile": (WHOLE + '[load.slo]\nttft_p99 = "50ms"\n', "a limit of one conversation has none"),
    "a limit from due in a closed loop": (WHOLE + '[load.slo]\nttft_due = "50ms"\n', 'needs load.loop = "open"'),
    "no TOML": ("name = ", "is not valid TOML: Invalid value (at end of document)"),
}  # fmt: skip


class TestMistakes:
    @pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
    def test_is_one_sentence_with_file_key_and_expectation(self, tmp_path: Path, text: str, expected: str) -> None:
        path = write(tmp_path, text)
        with pytest.raises(ScenarioError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert expected in message
        assert "\n" not in message

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ScenarioError, match=r"expected a scenario file at .*and there is none"):
            read(tmp_path / "none.toml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ScenarioError, match="cannot read the scenario file"):
            read(tmp_path)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_bytes(b"name = '\xff'")
        with pytest.raises(ScenarioError, match="it is not UTF-8"):
            read(tmp_path / "mine.toml")

    def test_unknown_names_suggest_near_ones(self) -> None:
        with pytest.raises(ScenarioError, match=r"no scenario 'laddr' \(did you mean ladder\?\)"):
            find("laddr")
        with pytest.raises(ScenarioError, match=r"no suite 'standart' \(did you mean standard\?\)"):
            suite("standart")

    def test_a_path_is_taken_as_it_is(self, tmp_path: Path) -> None:
        assert find(str(tmp_path / "x.toml")) == tmp_path / "x.toml"


class TestOptions:
    def test_every_key_becomes_an_option_of_the_generator(self, tmp_path: Path) -> None:
        (run,) = read_text(
            tmp_path,
            WHOLE
            + "gap_ms = 2.5\nwindow = 0\ncompression = true\n[load.query]\na = 'x y'\n[load.stop]\nshare = 0.5\nafter_ms = [10, 20]\n",
        ).runs
        options = run.load.options()
        for expected in (
            "--users=10", "--run-time=5s", "--spawn-rate=10", "--gap-ms=2.5", "--window=0", "--compression", "--server-query=a=x+y",
            "--stop-share=0.5", "--stop-after-ms=10-20", "--stop-timeout=5",
        ):  # fmt: skip
            assert expected in options
        assert not any(option.startswith(("--ttft-ms", "--stop-after-tokens", "--steps", "--rate=")) for option in options)

    def test_a_ladder_says_users_and_times_by_its_steps(self, tmp_path: Path) -> None:
        (run,) = read_text(tmp_path, WHOLE.replace("users = 10\nrun_time_s = 5", "steps = [[1, 2], [5, 2.5]]")).runs
        options = run.load.options()
        assert "--steps=1:2,5:2.5" in options
        assert not any(option.startswith(("--users", "--run-time")) for option in options)
        assert "--spawn-rate=5" in options
        assert (run.load.seconds, run.load.users_max) == (4.5, 5)

    def test_one_process_is_not_distributed(self, tmp_path: Path) -> None:
        (one,), (two,) = read_text(tmp_path, WHOLE).runs, read_text(tmp_path, WHOLE, processes=2).runs
        assert not any(option.startswith("--processes") for option in one.load.options())
        assert "--processes=2" in two.load.options()

    def test_the_generator_knows_every_option(self) -> None:
        from loadtest.options import add_options

        known: set[str] = set()

        class Parser:
            def add_argument(self, name: str, **_: object) -> None:
                known.add(name)

        add_options(Parser())
        locusts_own = {"--users", "--spawn-rate", "--run-time", "--processes", "--stop-timeout"}
        ours = {key.option for section in (Load, SECTIONS["load.stop"]) for key in keys(section).values() if key.option}
        assert ours - locusts_own <= known


class TestOverrides:
    def test_addresses_stand_in_one_text_and_an_empty_one_takes_them_away(self) -> None:
        given = overrides(parse(["bench", "--source-address", "127.0.0.1, 127.0.0.2"]))
        assert given == {"source_addresses": ("127.0.0.1", "127.0.0.2")}
        (run,) = read(find("connections-25k"), overrides(parse(["bench", "--source-address="]))).runs
        assert run.load.source_addresses == ()
        assert not any(option.startswith("--source-address") for option in run.load.options())

    def test_lie_over_the_file(self, tmp_path: Path) -> None:
        (run,) = read_text(tmp_path, WHOLE, users=3, window=8).runs
        assert (run.load.users, run.load.window, run.load.run_time_s) == (3, 8, 5)

    def test_a_ladder_keeps_its_shape(self) -> None:
        load = override(Load(steps=((10, 4.0), (100, 4.0)), warm_up_s=1.0), {"users": 50, "run_time_s": 4})
        assert load.steps == ((5, 2.0), (50, 2.0))
        assert load.warm_up_s == 0.5

    def test_a_short_run_has_a_short_warm_up(self) -> None:
        assert override(Load(users=1, run_time_s=10, warm_up_s=2.0), {"run_time_s": 1}).warm_up_s == 0.2

    def test_contradictions_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ScenarioError, match="warm_up_s: expected less than the 5 s"):
            read_text(tmp_path, WHOLE, warm_up_s=9.0)


class TestDocumentation:
    text = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("section", SECTIONS, ids=lambda name: name or "top")
    def test_every_key_has_a_row_with_its_meaning(self, section: str) -> None:
        title = f"`[[{section}]]`" if section == "variant" else f"`[{section}]`" if section else "top of the file"
        _, found, rest = self.text.partition(f"### {title}\n")
        assert found, f"no heading for {title}"
        table = rest.partition("\n### ")[0].partition("\n## ")[0]
        rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", table, re.MULTILINE))
        assert rows == {name: key.meaning for name, key in keys(SECTIONS[section]).items()}

    def test_every_scenario_of_the_catalogue_is_there(self) -> None:
        for scenario in catalogue():
            assert f"| `{scenario.name}` | {scenario.question} |" in self.text


def test_objectives_may_stand_as_a_table_or_as_a_list(tmp_path: Path) -> None:
    for text in (
        '[load.slo]\nttft = "500ms"\nstop = "< 0.3s"\n[thresholds]\ntoken_p99 = "< 50ms"\nerrors = "0.1%"\n',
        'slo = ["ttft=500ms", "stop<300ms"]\n[thresholds]\ntoken_p99 = "<50ms"\nerrors = "<= 0.001"\n',
    ):
        (tmp_path / "one.toml").write_text(WHOLE + text)
        (run,) = read(tmp_path / "one.toml").runs
        assert run.load.slo == ("ttft <= 500ms", "stop_latency < 300ms")
        assert run.thresholds == ("token_latency_p99 < 50ms", "errors <= 0.1%")
        assert "--slo=ttft <= 500ms,stop_latency < 300ms" in run.load.options()
        assert run.as_dict()["thresholds"] == list(run.thresholds)
        assert run.as_dict()["load"]["slo"] == list(run.load.slo)
    changed = with_thresholds(run, ("errors <= 2%", "goodput >= 90%"))
    assert changed.thresholds == ("token_latency_p99 < 50ms", "errors <= 2%", "goodput >= 90%")
