"""Long work tells how far it has come; short work tells nothing."""

import io
import logging
import re
import sys
import time

import pytest

from fpn_d2.utils import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)


def slowly(count):
    for number in range(count):
        time.sleep(0.02)
        yield number


def test_in_a_log_long_work_has_lines(soon, caplog):
    caplog.set_level(logging.INFO, progress.__name__)
    assert list(progress.told("making", slowly(12), 12)) == list(range(12))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) >= 2
    done = [int(re.match(r"making: (\d+) of 12 images in .*, .* left$", line)[1]) for line in lines]
    assert done == sorted(set(done))


def test_what_cannot_be_counted_is_told_by_its_seconds(soon, caplog):
    caplog.set_level(logging.INFO, progress.__name__)
    with progress.working("matching"):
        time.sleep(0.2)
    assert caplog.records
    assert {record.getMessage() for record in caplog.records} == {"matching: 0 s so far"}


def test_without_a_log_the_lines_are_printed(soon, caplog, capsys):
    caplog.set_level(logging.WARNING, progress.__name__)
    with progress.working("matching"):
        time.sleep(0.12)
    assert capsys.readouterr().err.startswith("matching: 0 s so far\n")


def test_short_work_is_not_told(caplog, capsys):
    caplog.set_level(logging.INFO, progress.__name__)
    assert list(progress.told("making", range(5))) == list(range(5))
    with progress.working("matching"):
        pass
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_with_the_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(progress.told("making", range(5), unit="step"))
    assert re.search(r"making: 100%.*5/5 \[\d\d:\d\d<\d\d:\d\d", terminal.getvalue())
