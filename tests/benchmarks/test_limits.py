"""What a run needs of the machine: by table, and once for real."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from benchmarks import limits


@pytest.mark.parametrize(
    ("users", "processes", "needed"), [(0, 1, 256), (1, 1, 257), (1000, 1, 1256), (1000, 3, 590), (1000, 0, 1256), (5, 10, 257)]
)
def test_each_connection_is_a_file(users: int, processes: int, needed: int) -> None:
    assert limits.files_needed(users, processes) == needed
    assert limits.check_files(users, needed, processes) == []
    assert len(limits.check_files(users, needed - 1, processes)) == 1


def test_too_few_files_says_what_was_expected_what_came_and_what_to_do() -> None:
    (sentence,) = limits.check_files(5000, 1024)
    assert sentence == (
        "5000 users in 1 process need 5256 open files a process and 1024 are allowed: "
        "raise the limit (ulimit -n 5256; beyond the hard limit as root, or with LimitNOFILE= of systemd, --ulimit nofile= of Docker), "
        "take more processes, or take at most 768 users."
    )
    assert "in 4 processes" in limits.check_files(5000, 1024, 4)[0]


def test_a_server_process_may_get_more_than_its_share() -> None:
    # 25 000 over two are 12 500 each, give or take 79 (one standard deviation of the binomial).
    assert limits.server_files_needed(25_000, 1) == 25_000 + limits.SPARE_FILES
    assert 12_500 + 5 * 79 < limits.server_files_needed(25_000, 2) - limits.SPARE_FILES < 12_500 + 7 * 79
    assert limits.check_server_files(25_000, 20_000, 2) == []
    (sentence,) = limits.check_server_files(25_000, 20_000, 1)
    assert sentence.startswith("25000 users in 1 process of the server need 25256 open files a process and 20000 are allowed: ")
    assert "take more processes of the server" in sentence


@pytest.mark.parametrize(("limit", "processes"), [(20_000, 1), (20_000, 2), (1024, 8), (300, 3), (100, 2)])
def test_the_advised_number_of_users_fits_the_server(limit: int, processes: int) -> None:
    (sentence,) = limits.check_server_files(1_000_000, limit, processes)
    most = int(sentence.rpartition("at most ")[2].split()[0])
    assert limits.check_server_files(most, limit, processes) == [] or most == 0
    assert most > 0.95 * processes * (limit - limits.SPARE_FILES - 6 * (limit**0.5)) or limit < 512


def test_the_advised_number_of_users_fits() -> None:
    assert limits.check_files(768, 1024) == []
    assert "at most 12704 users" in limits.check_ports(30_000, (32_768, 60_999))[0]
    assert limits.check_ports(12_704, (32_768, 60_999)) == []
    assert len(limits.check_ports(12_705, (32_768, 60_999))) == 1


@pytest.mark.parametrize(("sources", "targets"), [(4, 1), (1, 4), (2, 2)])
def test_more_addresses_give_more_ports(sources: int, targets: int) -> None:
    assert limits.check_ports(50_000, (32_768, 60_999), sources, targets) == []


def test_the_advised_number_of_addresses_suffices() -> None:
    assert "use 8 source addresses" in limits.check_ports(100_000, (32_768, 60_999))[0]
    assert limits.check_ports(100_000, (32_768, 60_999), 8) == []


def test_a_source_that_is_not_ours_is_said_with_what_to_do() -> None:
    assert limits.check_sources(()) == []
    assert limits.check_sources(("127.0.0.1", "127.0.0.1"), "localhost") == []
    (sentence,) = limits.check_sources(("127.0.0.1", "203.0.113.7"))
    assert sentence.startswith("203.0.113.7 is to be connected from and is no address of this machine (")
    assert "ip addr add 203.0.113.7" in sentence


def test_loopback_reaches_nobody_else() -> None:
    (sentence,) = limits.check_sources(("127.0.0.1",), "example.org")
    assert "only this machine can be reached, not example.org" in sentence
    assert "--source-address=" in sentence


def test_both_sides_of_our_own_server_need_memory() -> None:
    each = limits.GENERATOR_BYTES_PER_CONNECTION + limits.SERVER_BYTES_PER_CONNECTION
    assert limits.check_memory(1000, 1000 * each, own_server=True) == []
    (sentence,) = limits.check_memory(1000, 999 * each, own_server=True)
    assert "take at most 999 users" in sentence
    assert limits.check_memory(1000, 999 * each, own_server=False) == []


def test_an_empty_port_range_is_missing_ports_not_a_crash() -> None:
    assert len(limits.check_ports(1, (1, 0))) == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("32768\t60999\n", (32768, 60999)), ("", limits.DEFAULT_PORT_RANGE), ("a b", limits.DEFAULT_PORT_RANGE)]
)
def test_the_port_range_is_read(tmp_path: Path, text: str, expected: tuple[int, int]) -> None:
    path = tmp_path / "range"
    path.write_text(text)
    assert limits.read_port_range(path) == expected
    assert limits.read_port_range(tmp_path / "none") == limits.DEFAULT_PORT_RANGE


def test_disk_grows_with_users_time_and_tokens() -> None:
    assert limits.disk_needed(0, 0) == limits.BASE_DISK_BYTES
    assert limits.disk_needed(1000, 60) == limits.BASE_DISK_BYTES + 60 * 1000 * limits.DISK_BYTES_PER_USER_SECOND
    assert limits.disk_needed(0, 10, 16, 1000) == limits.BASE_DISK_BYTES + 160_000


def test_too_little_disk_is_said(tmp_path: Path) -> None:
    assert limits.check_disk(5 << 20, 5 << 20, tmp_path) == []
    (sentence,) = limits.check_disk(5 << 20, 1 << 20, tmp_path)
    assert sentence.startswith(f"The run may write 5 MiB to {tmp_path} and 1 MiB are free: ")


def test_a_folder_that_can_be_made_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert limits.nearest_existing(folder) == tmp_path
    assert limits.check_folder(folder) == []
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    assert limits.nearest_existing(folder) == folder


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    taken = tmp_path / "runs"
    taken.write_text("")
    (sentence,) = limits.check_folder(taken)
    assert "File exists" in sentence
    (sentence,) = limits.check_folder(taken / "below")
    assert "Not a directory" in sentence


def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(30, "Read-only file system", str(folder))

    (sentence,) = limits.check_folder(tmp_path, refuse)
    assert "Read-only file system" in sentence


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("[::1]", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, expected: bool) -> None:
    assert limits.is_loopback(host) is expected


def test_the_soft_limit_is_raised_and_never_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"limit": (256, 4096)}

    may = {"raise": False}

    def set_limit(_which: int, limit: tuple[int, int]) -> None:
        if not may["raise"] and (limit[1] != state["limit"][1] or limit[0] > 12_000):
            raise ValueError("not allowed to raise maximum limit")
        state["limit"] = limit

    monkeypatch.setattr(resource, "getrlimit", lambda _which: state["limit"])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert limits.raise_file_limit(65_536) == 4096
    assert limits.raise_file_limit(100) == 4096
    state["limit"] = (256, resource.RLIM_INFINITY)  # macOS: says "unlimited", refuses large numbers
    assert limits.raise_file_limit(65_536) == 10_240
    state["limit"] = (20_000, resource.RLIM_INFINITY)
    assert limits.raise_file_limit(65_536) == 20_000
    state["limit"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert limits.raise_file_limit(65_536) >= 65_536
    may["raise"] = True
    state["limit"] = (256, 20_000)  # root outside a container
    assert limits.raise_file_limit(65_536) == 65_536
    assert state["limit"] == (65_536, 65_536)


def test_a_small_run_lacks_nothing_here(tmp_path: Path) -> None:
    assert limits.check_machine(10, 10, tmp_path / "runs") == []


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    taken = tmp_path / "runs"
    taken.write_text("")
    missing = limits.check_machine(50_000_000, 3600, taken)
    # Files of the generator and of the server, ports, memory, the folder, the disk.
    assert len(missing) == 6
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in missing)
