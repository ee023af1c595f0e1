"""The master of several generators waits, begins, watches and counts as its messages say; see master_and_peers.py."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadtest.load.generator import CANNOT_WRITE, GENERATOR_LOST, ROWS_LOST
from loadtest.rows.columns import GeneratorRow, RequestRow, read_rows
from tests.kit import ROOT

RUN_S = 120
NOW_S = 1_768_471_200.0


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play all scenarios, and return their folder."""
    folder = tmp_path_factory.mktemp("played")
    command = [sys.executable, "-m", "tests.loadtest.load.master_and_peers", str(folder)]
    subprocess.run(command, cwd=ROOT, timeout=RUN_S, check=True)
    return folder


def outcome(folder: Path) -> Any:
    """Return what came of a scenario that ends well."""
    assert (folder / "code").read_text() == "0", (folder / "stderr").read_text()
    return json.loads((folder / "stdout").read_text())


def ended(folder: Path) -> tuple[int, str]:
    """Return the exit code of a scenario that a generator or master ends, and its last words."""
    return int((folder / "code").read_text()), (folder / "stderr").read_text().splitlines()[-1]


def test_a_generator_that_quits_or_falls_silent_before_the_load_makes_room_for_another(played: Path) -> None:
    assert outcome(played / "leavers_are_replaced") == [1, 2]


def test_a_generator_that_comes_in_mid_load_gets_no_users_and_ends_nothing(played: Path) -> None:
    assert outcome(played / "one_too_many_in_mid_load") == ["here_0"]


def test_rows_and_moments_are_on_the_master_s_clock_and_tell_how_far_a_generator_s_drifted(played: Path) -> None:
    moments = outcome(played / "all_rows_come")
    for number, clock in enumerate(moments["clocks"], 1):
        assert clock == {"generator": number, "ahead_s": 3600, "ahead_at_end_s": 3600.25, "uncertainty_s": 0.252}
    rows = list(read_rows(played / "all_rows_come/requests.csv", RequestRow))
    assert [(row.start_unix_s, row.scheduled_unix_s, row.generator) for row in rows] == [
        (NOW_S, NOW_S - 10, 1),
        (NOW_S, NOW_S - 10, 2),
    ]
    assert {row.unix_s for row in read_rows(played / "all_rows_come/generator.csv", GeneratorRow)} == {NOW_S + 1}


def test_the_load_begins_when_the_slowest_preparations_are_done_however_long_they_take(played: Path) -> None:
    moments = outcome(played / "preparations_take_long")
    assert moments["started_unix_s"] >= moments["ready_unix_s"]
    assert moments["stopping_unix_s"] - moments["started_unix_s"] >= 1


def test_rows_that_were_sent_and_not_written_end_the_load(played: Path) -> None:
    either = [f"load generator {number} of 2 sent 3 rows, but 2 of them were written" for number in (1, 2)]
    code, told = ended(played / "rows_are_lost")
    assert code == ROWS_LOST
    assert told in either  # whose last word is heard first


def test_a_generator_that_cannot_send_its_rows_ends(played: Path) -> None:
    told = "the rows of the requests could not be written: ZMQ sent failure"
    assert ended(played / "rows_cannot_be_sent") == (CANNOT_WRITE, told)


def test_a_generator_that_quits_in_mid_load_is_lost(played: Path) -> None:
    told = "load generator 2 of 2 ended before the load was over"
    assert ended(played / "one_quits_in_mid_load") == (GENERATOR_LOST, told)


@pytest.mark.parametrize("users", [10, 23, 47])
def test_users_of_all_generators_are_spread_evenly_over_any_number_of_addresses(played: Path, users: int) -> None:
    shares = outcome(played / f"shares_of_{users}_users")
    assert sum(count for _, count in shares) == users
    for addresses in (1, 2, 3, 5, 10):
        taken = Counter(dict.fromkeys(range(addresses), 0))
        for before, count in shares:
            taken.update((before + place) % addresses for place in range(count))
        assert max(taken.values()) - min(taken.values()) <= 1
