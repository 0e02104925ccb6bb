"""A cut of ``studies/ice-mini.yaml`` under the daemon with the real programs, and its page from an archive alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Place

STUDIES = Path(__file__).parents[2] / "studies"
SHORT = {"parameters": {"n_steps": 120, "stride": 5, "properties_stride": 5}}
BEADS = {"n_beads": 2, "n_steps": 60, "stride": 5, "properties_stride": 5, "thermostat": "pile-l"}
CUT = {
    "levels": {"sampling": "gfn1-xtb", "reference": "gfn1-xtb-tblite"},
    "modes": ["naive"],
    "sizes": [6],
    "production": {"mode": "naive", "size": 6},
    "runs": {"path-integral": {"crystal": BEADS}},
    "overrides": {
        "sampling_crystal": {"md": {"n_steps": 24, "stride": 4}, "selection": {"n_frames": 5}},
        "sampling_gas": {"md": {"n_steps": 24, "stride": 4}, "selection": {"n_frames": 5}},
        "learning_curve": {
            "split": {"valid": 4, "test": 0, "min_separation": 0, "seed": 1},
            "training": {"parameters": {"max_num_epochs": 4}},
        },
        "dynamics_crystal": SHORT,
        "dynamics_gas": SHORT,
        "reweighting": {"settings": {"n_frames": 10, "equilibration": 0.0, "n_bootstrap": 50, "n_bins": 4}},
    },
}
LOOK = """
import json
from aiida import orm
node = orm.load_node({pk})
outputs = node.outputs
print(json.dumps({{
    "uuid": node.uuid,
    "status": node.exit_status,
    "message": node.exit_message,
    "failed": outputs.failed.get_dict() if "failed" in outputs else None,
    "crystals": sorted(outputs.reference) if "reference" in outputs else [],
    "order": outputs.ranking.model.details["order"] if "ranking" in outputs else [],
    "beads": [outputs.production_runs.path_integral[name].enthalpy_crystal.conditions["n_beads"]
              for name in outputs.production_runs.path_integral] if "production_runs" in outputs else [],
}}))
"""


@pytest.fixture(scope="module")
def study(place):
    """Return the pk of the cut, which has run to its end."""
    content = yaml.safe_load((STUDIES / "ice-mini.yaml").read_text(encoding="utf-8"))
    return place.run_to_its_end("ice-mini-cut", {**content, **CUT})


def test_two_ices_and_the_molecule_go_from_cp2k_to_their_order(place, study):
    found = place.ask(LOOK.format(pk=study))
    assert (found["status"], found["failed"]) == (0, {}), found["message"]
    assert found["crystals"] == ["ice_ic", "ice_ix"]
    assert sorted(found["order"]) == ["ice_ic", "ice_ix"]
    assert found["beads"] == [2, 2]


@pytest.mark.long
def test_an_archive_in_an_empty_profile_gives_the_same_page(place, study, tmp_path: Path):
    place.call("aiida-mlfinetune", "report", study, "-o", "study.html")
    page = (place.folder / "study.html").read_text(encoding="utf-8")
    for title in ("Table I", "Figure 1", "Figure 2", "Figure 3", "Figure 4"):
        assert title in page
    archive = place.folder / "study.aiida"
    place.call("verdi", "archive", "create", archive, "--nodes", study)
    empty = Place(tmp_path)
    empty.call("verdi", "profile", "setup", "core.sqlite_dos", "-n", "--profile-name", "empty", "--email", "a@b.c")
    empty.call("verdi", "archive", "import", archive)
    empty.call("aiida-mlfinetune", "report", place.ask(LOOK.format(pk=study))["uuid"], "-o", "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page
