"""The whole chain under the daemon with real CP2K, MACE and i-PI, for ice (fine-tuned) and dry ice (from scratch)."""

from __future__ import annotations

import re

import pytest

SHORT_DYNAMICS = {"parameters": {"n_steps": 400, "stride": 5}}
ICE = {
    "crystal": "ice-ic",
    "protocol": "demo",
    "temperature_K": 100,
    "pressure_bar": 1,
    "overrides": {
        "sampling_crystal": {"md": {"n_steps": 40}, "selection": {"n_frames": 4}},
        "sampling_gas": {"md": {"n_steps": 60}, "selection": {"n_frames": 5}},
        "training": {"split": {"valid": 2, "test": 2, "seed": 1}, "parameters": {"max_num_epochs": 8}},
        "dynamics_crystal": SHORT_DYNAMICS,
        "dynamics_gas": SHORT_DYNAMICS,
    },
}
DRY_ICE = {
    "crystal": "carbon-dioxide",
    "protocol": "demo",
    "temperature_K": 100,
    "pressure_bar": 1,
    "overrides": {
        "foundation": None,
        # Without a foundation, a crystal collapses that was not trained on dense frames.
        "sampling_crystal": {
            "md": {"n_steps": 160, "stride": 2},
            "selection": {"n_frames": 40, "volume_range": [0.7, 1.15]},
        },
        "sampling_gas": {"md": {"n_steps": 100, "stride": 2}, "selection": {"n_frames": 12}},
        "labelling": {"level": "gfn1-xtb"},
        "training": {"split": {"valid": 4, "test": 4, "seed": 1}, "parameters": {"max_num_epochs": 100}},
        "dynamics_crystal": {"parameters": {"n_steps": 400, "stride": 5, "barostat_tau_fs": 400.0}},
        "dynamics_gas": SHORT_DYNAMICS,
    },
}
LOOK = """
import json
from aiida import orm
node = orm.load_node({pk})
jobs = [n for n in node.called_descendants if isinstance(n, orm.CalcJobNode)]
result = node.outputs.sublimation_enthalpy
seen, frontier = {{}}, [result]
while frontier:
    one = frontier.pop()
    for link in one.base.links.get_incoming().all():
        if link.link_type.value in ("create", "input_calc") and link.node.pk not in seen:
            seen[link.node.pk] = link.node
            frontier.append(link.node)
print(json.dumps({{
    "ok": node.is_finished_ok,
    "jobs": len(jobs),
    "cached": sum(job.base.caching.is_created_from_cache for job in jobs),
    "ancestors": sorted({{n.process_label for n in seen.values() if isinstance(n, orm.ProcessNode)}}),
    "orphans": [str(n) for n in seen.values() if type(n).__name__ == "DatasetData" and n.creator is None],
    "values": {{name: [node.outputs[name].value, node.outputs[name].error, node.outputs[name].unit]
               for name in ("density", "sublimation_enthalpy")}},
    "elements": node.outputs.model.elements,
    "parent": node.outputs.model.passport.parent_sha256,
}}))
"""


@pytest.fixture(scope="module")
def ice(place):
    """Return the pk of the study of ice, which has ended."""
    return place.run_to_its_end("ice", ICE)


@pytest.fixture(scope="module")
def dry_ice(place):
    """Return the pk of the study of dry ice, which has ended."""
    return place.run_to_its_end("dry-ice", DRY_ICE)


def check(found: dict) -> None:
    """Assert that a run went from CP2K to the enthalpy without a gap, with errors on its results."""
    assert found["ok"]
    assert found["orphans"] == []
    for label in ("Cp2kMdCalculation", "Cp2kLabelCalculation", "MaceTrainCalculation", "IpiCalculation"):
        assert label in found["ancestors"]
    for value, error, _ in found["values"].values():
        assert 0 < error < abs(value)


def test_ice_is_fine_tuned_from_the_foundation(place, ice):
    found = place.ask(LOOK.format(pk=ice))
    check(found)
    assert found["parent"] is not None
    density, _, unit = found["values"]["density"]
    assert unit == "g/cm^3"
    assert 0.7 < density < 1.3


@pytest.mark.long
def test_dry_ice_is_trained_from_scratch(place, dry_ice):
    found = place.ask(LOOK.format(pk=dry_ice))
    check(found)
    assert found["parent"] is None
    assert found["elements"] == ["C", "O"]
    density, _, _ = found["values"]["density"]
    assert 1.2 < density < 2.6


def test_a_second_run_comes_from_the_cache(place, ice):
    output = place.call("aiida-mlfinetune", "run", place.folder / "ice.yaml", "--wait").stdout
    found = place.ask(LOOK.format(pk=re.search(r"status (\d+)", output)[1]))
    first = place.ask(LOOK.format(pk=ice))
    assert found["ok"]
    assert found["jobs"] == found["cached"] == first["jobs"] > 0
    assert found["values"] == first["values"]


def test_the_report_is_one_file_with_numbers_and_figures(place, ice):
    place.call("aiida-mlfinetune", "report", ice, "-o", "ice.html")
    page = (place.folder / "ice.html").read_text(encoding="utf-8")
    assert "kJ/mol" in page
    assert page.count("<svg") + page.count("data:image/") >= 5
    assert 'src="http' not in page


def test_the_graph_of_the_result_can_be_drawn(place, ice):
    place.call("verdi", "process", "show", ice)
    found = place.ask(
        f"import json; from aiida import orm; print(json.dumps({{'pk': orm.load_node({ice})"
        ".outputs.sublimation_enthalpy.pk}))"
    )
    place.call("verdi", "node", "graph", "generate", found["pk"], "-f", "svg", "-O", "graph.svg")
    drawn = (place.folder / "graph.svg").read_text(encoding="utf-8")
    assert "Cp2kMdCalculation" in drawn
    assert "IpiCalculation" in drawn
