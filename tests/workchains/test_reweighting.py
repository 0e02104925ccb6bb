"""Reweighting of runs with stand-in energies, at real labels by tblite, and what is refused before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from ase.build import molecule
from plumpy.process_states import ProcessState

from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.common.units import BAR_EV_A3, EV_KJMOL, KB_EV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.observables.rdf import radial_distributions
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory
from aiida_mlfinetune.workchains.reweighting import ReweightingWorkChain
from tests.fixtures.waters import two_waters
from tests.workchains.test_labelling import TBLITE, by_tblite

TEMPERATURE = 100.0
KT = KB_EV * TEMPERATURE
NVT = {"temperature_K": TEMPERATURE, "ensemble": "nvt"}
NPT = {"temperature_K": TEMPERATURE, "ensemble": "npt-isotropic", "pressure_bar": 1.0}
MODEL = Level("01234567/mace", engine="mace", method="MACE")
DFT = Level("dft/cp2k", engine="cp2k", method="DFT")
SETTINGS = {"equilibration": 0.0, "n_bootstrap": 100, "n_train": 3, "n_bins": 4}
CODES = ReweightingWorkChain.exit_codes


def gas_run(n=24, source="somewhere"):
    """Return molecules along a run, with energies of a potential that is 2 eV and some noise off GFN1-xTB."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(n):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(scale=0.005, size=(3, 3))
        images.append(atoms)
    energy = np.array([by_tblite(atoms)[0] for atoms in images]) - 2.0 + rng.normal(scale=0.3 * KT, size=n)
    frames = Frames.from_atoms(images, source=source, steps=range(0, 10 * n, 10))
    return frames.with_labels(Labels.build(MODEL, frames.offsets, energy))


def crystal_run(n=120, shift=0.5, source="somewhere"):
    """Return a crystal with Gaussian volumes; the reference prefers volumes that are ``shift`` deviations larger."""
    x = np.random.default_rng(1).normal(size=n)
    images = []
    for value in x:
        atoms = two_waters()
        atoms.set_cell(atoms.cell * (1 + 0.01 * value) ** (1 / 3))
        images.append(atoms)
    frames = Frames.from_atoms(images, source=source, steps=range(n))
    sampled = 0.5 * KT * x**2
    frames = frames.with_labels(Labels.build(MODEL, frames.offsets, sampled))
    return frames.with_labels(Labels.build(DFT, frames.offsets, sampled - shift * KT * x + 3.0))


@pytest.fixture
def make_run(aiida_profile, aiida_localhost):
    """Return a function that makes the trajectory of a job with given parameters."""

    def make(parameters, frames_of=crystal_run, structure=None, **kwargs):
        job = orm.CalcJobNode(computer=aiida_localhost, process_type="aiida.calculations:mlfinetune.ipi")
        node = orm.Dict(parameters).store()
        job.base.links.add_incoming(node, LinkType.INPUT_CALC, "parameters")
        if structure is not None:
            job.base.links.add_incoming(structure.store(), LinkType.INPUT_CALC, "structure")
        job.store()
        return DatasetData(frames_of(source=job.uuid, **kwargs))

    return make


def build(trajectory, code=None, settings=None, protocol="demo", **kwargs):
    kwargs.setdefault("reference_level", DFT.key if code is None else None)
    overrides = {"settings": {**SETTINGS, **(settings or {})}}
    return ReweightingWorkChain.get_builder_from_protocol(
        code, trajectory, protocol=protocol, overrides=overrides, **kwargs
    )


def test_frames_of_a_run_are_labelled_and_averaged(aiida_profile, python_code):
    trajectory = DatasetData(gas_run())
    outputs, node = run_get_node(
        build(trajectory, python_code, {"n_frames": 12}, level="gfn1-xtb-tblite", conditions=NVT)
    )
    assert node.is_finished_ok, node.exit_message
    frames = outputs["dataset"].frames
    assert frames.steps.tolist() == list(range(10, 240, 20))
    difference = frames.labels(TBLITE).energy - frames.labels(MODEL.key).energy
    assert np.abs(difference - 2.0).max() < 0.05
    weights = np.exp(-(difference - difference.min()) / KT)
    weights /= weights.sum()
    energy = outputs["potential_energy"]
    np.testing.assert_allclose(energy.arrays()["weights"], weights, rtol=1e-8)
    assert energy.value == pytest.approx(EV_KJMOL * float(weights @ frames.labels(TBLITE).energy), rel=1e-12)
    assert energy.details["raw"]["value"] == pytest.approx(EV_KJMOL * frames.labels(MODEL.key).energy.mean())
    assert energy.details["n_effective"] == pytest.approx(1 / (weights**2).sum())
    assert (energy.unit, energy.details["n_molecules"], energy.details["formula"]) == ("kJ/mol", 1, "H2O")
    assert energy.conditions["level"] == TBLITE
    assert energy.conditions["temperature_K"] == TEMPERATURE
    assert "density" not in outputs
    verdict = outputs["verdict"].get_dict()
    assert verdict["mean_difference_kJmol"] == pytest.approx(EV_KJMOL * difference.mean())
    worst = np.sort(np.argsort(-np.abs(difference - difference.mean()))[:3])
    assert outputs["to_train"].frames.steps.tolist() == frames.steps[worst].tolist()
    assert outputs["to_train"].is_subset
    assert TBLITE in outputs["to_train"].levels


def test_density_of_the_reference_is_recovered_from_labels_that_are_there(make_run):
    trajectory = make_run(NPT, n=400)
    outputs, node = run_get_node(build(trajectory, settings={"stride": 1, "train_by": "weights"}))
    assert node.is_finished_ok, node.exit_message
    assert not [child for child in node.called if isinstance(child, orm.WorkChainNode)]
    density = outputs["density"]
    raw = density.details["raw"]
    volumes = two_waters().get_volume() * (1 + 0.01 * np.random.default_rng(2).normal(size=100000))
    at = {
        "raw": 1 / volumes,
        "reference": 1 / (volumes + 0.5 * 0.01 * two_waters().get_volume()),
    }
    grams = density.arrays()["frame"][0] * trajectory.frames.volumes[0]
    assert abs(raw["value"] - grams * at["raw"].mean()) < 3 * raw["error"]
    assert abs(density.value - grams * at["reference"].mean()) < 3 * density.error
    assert density.details["shift_sigma"] < -5
    assert "run and reference differ" in density.details["verdict"]
    assert density.warnings == []
    assert density.conditions["pressure_bar"] == 1.0
    arrays = density.arrays()
    widths = np.diff(arrays["bin_edges"])
    assert (arrays["reweighted_distribution"] * widths).sum() == pytest.approx(1.0)
    verdict = outputs["verdict"].get_dict()
    assert verdict["reliable"]
    assert verdict["n_effective"] == pytest.approx(400 * np.exp(-0.25), rel=0.15)
    assert verdict["thresholds"] == {"n_independent": 10.0, "largest_share": 0.2, "overlap": 0.3}
    assert outputs["potential_energy"].details["n_molecules"] == 2
    weights = arrays["weights"]
    assert outputs["to_train"].indices.tolist() == np.sort(np.argsort(-weights)[:3]).tolist()


def test_radial_distribution_functions_and_enthalpies_are_those_of_the_reference(make_run):
    """The reference prefers large cells, in which the same pairs stand out more against the mean density."""
    pairs = {"rdf_pairs": [["O", "H"], ["O", "O"]], "rdf_r_max": 2.0, "rdf_n_bins": 20}
    high = {**NPT, "pressure_bar": 50000.0}
    trajectory = make_run(high, n=100)
    outputs, node = run_get_node(build(trajectory, settings={"stride": 1, **pairs}))
    assert node.is_finished_ok, node.exit_message
    found = outputs["distributions"]
    assert set(found) == {"O_H", "O_O"}
    arrays = found["O_H"].arrays()
    (plain,) = radial_distributions(FramesTrajectory(trajectory.frames), [("O", "H")], 2.0, 20)
    np.testing.assert_allclose(arrays["r_A"], plain.r)
    np.testing.assert_allclose(arrays["raw"], plain.g)
    np.testing.assert_allclose(arrays["reweighted"], arrays["weights"] @ arrays["frame"])
    peak = int(np.argmax(plain.g))
    volumes = trajectory.frames.volumes
    ratio = float(arrays["weights"] @ volumes) / volumes.mean()
    assert ratio > 1.002
    assert arrays["reweighted"][peak] / arrays["raw"][peak] == pytest.approx(ratio, rel=1e-6)
    assert 0 < arrays["reweighted_error"][peak] < 0.1 * arrays["raw"][peak]
    assert not found["O_O"].arrays()["raw"].any()
    assert found["O_H"].details["pair"] == ["O", "H"]
    enthalpy, energy = outputs["enthalpy"], outputs["potential_energy"]
    assert enthalpy.name == "enthalpy_crystal"
    kinetic = 1.5 * 3 * KT
    per_molecule = (50000.0 * BAR_EV_A3 * float(arrays["weights"] @ volumes)) / 2
    assert enthalpy.value - energy.value == pytest.approx(EV_KJMOL * (kinetic + per_molecule))


def test_distribution_functions_that_there_are_not_are_refused(make_run):
    trajectory = make_run(NPT)
    for settings, message in (
        ({"rdf_pairs": [["O", "O"]]}, "give both or none"),
        ({"rdf_r_max": 2.0}, "give both or none"),
        ({"rdf_pairs": [["O", "Q"]], "rdf_r_max": 2.0}, "a pair is two elements"),
        ({"rdf_pairs": [["O"]], "rdf_r_max": 2.0}, "a pair is two elements"),
        ({"rdf_pairs": [["O", "O"]], "rdf_r_max": -1.0}, "must be a positive number"),
        ({"rdf_pairs": [["O", "C"]], "rdf_r_max": 2.0}, "there is no element 'C'"),
        ({"rdf_pairs": [["O", "O"]], "rdf_r_max": 50.0}, "needs a cell of 33.33 angstrom"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(trajectory, settings={"n_frames": 20, **settings})


def test_hopeless_overlap_is_said(make_run):
    outputs, node = run_get_node(build(make_run(NPT, n=60, shift=6.0), settings={"stride": 1}))
    assert node.is_finished_ok
    verdict = outputs["verdict"].get_dict()
    assert not verdict["reliable"]
    assert any("overlap" in reason for reason in verdict["reasons"])
    for name in ("density", "potential_energy"):
        assert outputs[name].warnings[0].startswith("UNRELIABLE")
    html = render(collect(node))
    assert 'id="reweighting-to-the-reference"' in html
    assert "Its averages are NOT reliable" in html
    assert "Distribution of the density in the run and at the reference level." in html
    assert f"N_eff {verdict['n_effective']:.1f} of 60" in html


def test_another_state_than_that_of_the_run_is_refused(make_run, aiida_profile):
    trajectory = make_run(NPT)
    assert build(trajectory).conditions is None
    for changes, message in (
        ({"temperature_K": 220.0}, "made at temperature 100 K, not at 220 K"),
        ({"pressure_bar": 5000.0}, "pressure 1 bar, not at 5000 bar"),
        ({"ensemble": "npt-flexible"}, "ensemble 'npt-isotropic', not in 'npt-flexible'"),
        ({"ensemble": "nve"}, "has no temperature to reweight at"),
        ({"n_beads": 8}, "8 beads"),
        ({"temperature_K": -1.0}, "must be positive"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(trajectory, conditions={**NPT, **changes})
    with pytest.raises(MlFinetuneError, match="lack \\['ensemble'\\]"):
        build(trajectory, conditions={"temperature_K": TEMPERATURE})
    with pytest.raises(MlFinetuneError, match="conditions of the run are unknown"):
        build(DatasetData(crystal_run()))
    assert build(DatasetData(crystal_run()), conditions=NPT).conditions["temperature_K"] == TEMPERATURE


def test_the_validators_of_the_ports_refuse_the_same(make_run):
    builder = build(make_run(NPT))
    for port, value, message in (
        ("conditions", {**NPT, "temperature_K": 220.0}, "not at 220 K"),
        ("settings", {"stride": 100, "equilibration": 0.0}, "a stride of 100 leaves 2 frames"),
        ("settings", {"n_frames": 20, "strides": 2}, "unknown entries \\['strides'\\]"),
    ):
        inputs = {**builder._inputs(prune=True), port: orm.Dict(value)}
        with pytest.raises(ValueError, match=message):
            instantiate_process(get_manager().get_runner(), ReweightingWorkChain, **inputs)


def test_too_few_frames_and_settings_that_cannot_be_are_refused(make_run):
    trajectory = make_run(NPT, n=50)
    for settings, message in (
        ({"stride": 6}, "a stride of 6 leaves 9 frames"),
        ({"n_frames": 9}, "n_frames is 9, but must be an integer of at least 10"),
        ({"n_frames": 51}, "51 frames are wanted, but of 50 frames 50 come after"),
        ({"n_frames": 30, "equilibration": 0.5}, "of 50 frames 25 come after"),
        ({"n_frames": 20, "stride": 2}, "give one of them"),
        ({"n_frames": 20, "train_by": "luck"}, "choose from \\['weights', 'errors'\\]"),
        ({"equilibration": 1.0}, "less than 1"),
        ({"n_bootstrap": 3}, "at least 50"),
        ({"n_frame": 20}, "unknown input 'settings.n_frame'"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(trajectory, settings=settings)
    assert build(trajectory, settings={"stride": 5}).settings["n_frames"] is None


def test_levels_that_are_not_clear_are_refused(make_run, python_code):
    trajectory = make_run(NPT)
    more = crystal_run(source=trajectory.frame_sources[0])
    more = more.with_labels(Labels.build(Level("b/mace"), more.offsets, np.zeros(len(more))))
    for arguments, message in (
        ({"reference_level": "pbe"}, "no labels at 'pbe'"),
        ({"reference_level": DFT.key, "code": python_code}, "leave the code and the level out"),
        ({"reference_level": None}, "give the code"),
        ({"sampled_level": DFT.key}, "nothing to reweight"),
        ({"trajectory": DatasetData(more)}, "name it by the input `sampled_level`"),
        ({"sampled_level": "pbe"}, "no labels at level 'pbe'"),
    ):
        with pytest.raises(MlFinetuneError, match=message):
            build(**{"trajectory": trajectory, **arguments})
    assert build(DatasetData(more), sampled_level="b/mace").sampled_level == "b/mace"
    holes = more.labels("b/mace").energy.copy()
    holes[3] = np.nan
    holes = more.without_level("b/mace").with_labels(Labels.build(Level("b/mace"), more.offsets, holes))
    with pytest.raises(MlFinetuneError, match="1 of 120 frames have no energy at 'b/mace'"):
        build(DatasetData(holes), sampled_level="b/mace")


def test_protocols(make_run, cp2k_code):
    """Kaur et al., Faraday Discuss. 256, 120 (2025): 100 uniformly strided frames of one run."""
    assert set(ReweightingWorkChain.get_available_protocols()) == {"demo", "fast", "balanced", "kaur2025"}
    builder = ReweightingWorkChain.get_builder_from_protocol(
        cp2k_code, make_run(NPT, n=200), protocol="kaur2025", sampled_level=MODEL.key
    )
    assert builder.settings["n_frames"] == 100
    assert builder.labelling.level["key"] == "revpbe-d3/cp2k"
    assert builder.labelling.cp2k.code == cp2k_code
    with pytest.raises(MlFinetuneError, match="unknown input 'setings'"):
        ReweightingWorkChain.get_builder_from_protocol(cp2k_code, None, overrides={"setings": {}})


def test_frames_have_the_grid_of_the_crystal_that_the_run_started_from(make_run, cp2k_code):
    """That of the training labels, where these were made of the same crystal; a crystal that is named comes first."""
    start, other = two_waters(), two_waters()
    other.set_cell(1.02 * other.cell, scale_atoms=True)

    def cells(trajectory, **kwargs):
        builder = ReweightingWorkChain.get_builder_from_protocol(
            cp2k_code, trajectory, "revpbe-d3-demo", "demo", sampled_level=MODEL.key, **kwargs
        )
        return builder.labelling.level.get_dict().get("grid_cells")

    run = make_run(NPT, structure=orm.StructureData(ase=start))
    assert cells(run) == {"H4O2": [start.cell.array.round(6).tolist()]}
    assert cells(run, crystals=[orm.StructureData(ase=other)]) == {"H4O2": [other.cell.array.round(6).tolist()]}
    assert cells(make_run(NPT)) is None  # left to the labelling


@pytest.fixture
def process(make_run):
    made = instantiate_process(get_manager().get_runner(), build(make_run(NPT), settings={"n_frames": 12}))
    assert made.take_frames() is None
    return made


def finished(status=0, **outputs):
    node = orm.WorkChainNode()
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(status)
    node.set_exit_message("no luck")
    node.store()
    for name, value in outputs.items():
        value.store()
        value.base.links.add_incoming(node, LinkType.RETURN, name)
    return node


def test_a_failed_labelling_ends_the_chain(process):
    process.ctx.labelling = finished(320)
    code = process.inspect_labelling()
    assert code.status == CODES.ERROR_LABELLING_FAILED.status
    assert code.message == "The labelling failed with [320] no luck"


def test_too_few_labels_end_the_chain(process):
    process.ctx.labelling = finished(dataset=DatasetData(crystal_run(n=9)))
    code = process.inspect_labelling()
    assert code.status == CODES.ERROR_TOO_FEW_LABELS.status
    assert code.message == "Only 9 of 12 frames were labelled."
    process.ctx.labelling = finished(dataset=DatasetData(crystal_run(n=11)))
    assert process.inspect_labelling() is None
    assert process.ctx.dataset.n_frames == 11


def test_frames_without_the_reference_have_no_average(make_run):
    """The labels that are there were made for other frames than those that are taken."""
    frames = crystal_run()
    energy = frames.labels(DFT.key).energy.copy()
    energy[1::2] = np.nan
    frames = frames.without_level(DFT.key).with_labels(Labels.build(DFT, frames.offsets, energy))
    outputs, node = run_get_node(build(DatasetData(frames), conditions=NPT))
    assert node.exit_status == CODES.ERROR_NO_AVERAGE.status
    assert "without an energy at both levels" in node.exit_message
    assert outputs["dataset"].n_frames == 15


def test_frames_that_cannot_be_taken_end_the_chain(process, monkeypatch):
    from aiida_mlfinetune.workchains import reweighting

    def refuse(*_):
        raise MlFinetuneError("none left")

    monkeypatch.setattr(reweighting, "strided_frames", refuse)
    code = process.take_frames()
    assert code.status == CODES.ERROR_FRAMES_REFUSED.status
    assert "none left" in code.message


def test_a_labelling_that_refuses_its_inputs_ends_the_chain(make_run, python_code, monkeypatch):
    trajectory = make_run(NPT)
    made = instantiate_process(
        get_manager().get_runner(),
        build(trajectory, python_code, {"n_frames": 12}, level="gfn1-xtb-tblite", sampled_level=MODEL.key),
    )
    assert made.take_frames() is None
    assert made.labels_are_missing()

    def refuse(*_, **__):
        raise ValueError("not these")

    monkeypatch.setattr(made, "submit", refuse)
    code = made.run_labelling()
    assert code.status == CODES.ERROR_LABELLING_REFUSED.status
    assert "not these" in code.message
