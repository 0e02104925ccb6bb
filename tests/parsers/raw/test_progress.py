"""Counting from the ends of files that are being written."""

from __future__ import annotations

import pytest

from aiida_mlfinetune.parsers.raw.progress import Progress, finished_epochs, last_step, seconds_left

CP2K = """\
#     Step Nr.          Time[fs]        Kin.[a.u.]          Temp[K]            Pot.[a.u.]        Cons Qty[a.u.]
         0            0.000000         0.010925976       100.000000000      -275.5         -275.4              0.0
        10            5.000000         0.010925976       100.000000000      -275.5         -275.4              1.1
"""
IPI = """\
#  column   1     --> step : The current simulation time step.
   0.00000000e+00   0.00000000e+00
   1.20000000e+02   6.00000000e-02
"""


@pytest.mark.parametrize(
    ("tail", "step"),
    [
        (CP2K, 10),
        (IPI, 120),
        (CP2K + "        20           10.0000", 10),
        ("  0.010925976  100.0\n        30  15.0\n", 30),
        (CP2K.splitlines(keepends=True)[0], None),
        ("", None),
    ],
    ids=["cp2k", "i-pi", "line being written", "first line cut", "header only", "empty"],
)
def test_last_step(tail: str, step: int | None):
    assert last_step(tail) == step


@pytest.mark.parametrize(
    ("text", "epochs"),
    [
        ('{"epoch": 4, "max_num_epochs": 20}', (5, 20)),
        ('{"epoch": 4, "max_n', None),
        ("", None),
        ('{"epoch": null, "max_num_epochs": 20}', None),
    ],
)
def test_finished_epochs(text: str, epochs: tuple[int, int] | None):
    assert finished_epochs(text) == epochs


def test_progress_in_words_and_as_a_share():
    assert str(Progress(12, 20, "frames")) == "12 of 20 frames"
    assert str(Progress(12, None, "frames")) == "12 frames"
    assert Progress(5, 20, "epochs").fraction == 0.25
    assert Progress(25, 20, "epochs").fraction == 1.0
    assert Progress(5, None, "epochs").fraction is None


def test_time_left_is_in_proportion_to_the_work_left():
    assert seconds_left(Progress(5, 20, "epochs"), 10.0) == 30.0
    assert seconds_left(Progress(20, 20, "epochs"), 10.0) == 0.0
    assert seconds_left(Progress(0, 20, "epochs"), 10.0) is None
    assert seconds_left(Progress(5, None, "epochs"), 10.0) is None
