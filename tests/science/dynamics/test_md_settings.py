"""MD settings: what is refused, and with which words."""

import pytest

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings

GOOD = {"ensemble": "npt-flexible", "temperature_K": 100.0, "n_steps": 100, "seed": 1}


def test_plain_values_come_back():
    settings = MdSettings.from_dict(GOOD)
    assert settings.ensemble is Ensemble.NPT_FLEXIBLE
    assert MdSettings.from_dict(settings.to_dict()) == settings
    assert settings.to_dict()["ensemble"] == "npt-flexible"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"temperature": 1}, r"unknown entries \['temperature'\]"),
        ({"ensemble": "npt"}, "unknown ensemble 'npt'"),
        ({"temperature_K": -1.0}, "temperature_K is -1.0"),
        ({"temperature_K": 0}, "temperature_K is 0"),
        ({"temperature_K": float("nan")}, "temperature_K is nan"),
        ({"temperature_K": "100"}, "temperature_K is '100'"),
        ({"pressure_bar": None}, "pressure_bar is None"),
        ({"n_steps": 0}, "n_steps is 0"),
        ({"n_steps": 1.5}, "n_steps is 1.5"),
        ({"stride": 101}, "stride"),
        ({"timestep_fs": 0}, "timestep_fs is 0"),
        ({"barostat_tau_fs": float("inf")}, "barostat_tau_fs is inf"),
        ({"seed": True}, "seed is True"),
        ({"seed": 2**31}, "seed is"),
    ],
)
def test_bad_values_are_refused(changes, match):
    with pytest.raises(StudyError, match=match):
        MdSettings.from_dict({**GOOD, **changes})


def test_missing_values_are_named():
    with pytest.raises(StudyError, match=r"lack \['n_steps', 'seed'\]"):
        MdSettings.from_dict({"ensemble": "nvt", "temperature_K": 100.0})


def test_long_time_steps_are_for_heavy_atoms_or_those_who_ask():
    settings = MdSettings.from_dict({**GOOD, "timestep_fs": 2.5})
    settings.check_elements(["Ar"])
    with pytest.raises(StudyError, match="allow_large_timestep"):
        settings.check_elements(["O", "H"])
    MdSettings.from_dict({**GOOD, "timestep_fs": 2.5, "allow_large_timestep": True}).check_elements(["H"])
    MdSettings.from_dict({**GOOD, "timestep_fs": 2.0}).check_elements(["H"])
