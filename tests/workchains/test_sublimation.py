"""The sublimation work chain: its builders, the inputs that it refuses, and how it ends if a stage fails."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine.utils import instantiate_process
from ase.build import bulk

from aiida_mlfinetune.calculations.functions.dataset import without_level_of
from aiida_mlfinetune.common.errors import FramesError, ModelError, MoleculesError, StudyError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals.crystals import carbon_dioxide, ice_xi
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.workchains.model_sampling import ModelSamplingWorkChain
from aiida_mlfinetune.workchains.sublimation import SublimationWorkChain

PROTOCOLS = ("demo", "fast", "balanced", "kaur2025")


@pytest.fixture
def build(cp2k_code, python_code, ipi_code, tiny_model):
    """Return a function that makes a builder."""

    def make(atoms=None, protocol="demo", overrides=None, **kwargs):
        kwargs.setdefault("foundation", tiny_model)
        return SublimationWorkChain.get_builder_from_protocol(
            crystal=orm.StructureData(ase=ice_xi() if atoms is None else atoms),
            cp2k_code=kwargs.pop("cp2k_code", cp2k_code),
            python_code=kwargs.pop("python_code", python_code),
            ipi_code=kwargs.pop("ipi_code", ipi_code),
            protocol=protocol,
            overrides=overrides,
            **kwargs,
        )

    return make


@pytest.fixture
def start(aiida_manager):
    """Return a function that makes a process of a builder, or of a class and inputs, without running it."""
    return lambda process, **inputs: instantiate_process(aiida_manager.get_runner(), process, **inputs)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_gives_inputs_that_are_accepted(build, start, protocol):
    builder = build(protocol=protocol)
    assert start(builder).node.is_stored
    assert builder.dynamics_gas.parameters["ensemble"] == "nvt"
    assert builder.dynamics_crystal.parameters["ensemble"].startswith("npt")
    assert builder.training.level.value == builder.labelling.level["key"]
    assert set(SublimationWorkChain.get_available_protocols()) == set(PROTOCOLS)


def test_kaur2025_without_its_foundation_says_where_to_get_it(build):
    with pytest.raises(ModelError, match="not here: fetch it with `aiida-mlfinetune model fetch mace-mp-0-large`"):
        build(protocol="kaur2025", foundation=None)


def test_kaur2025_with_a_given_foundation_builds(build, tiny_model):
    builder = build(protocol="kaur2025")
    assert builder.foundation.sha256 == tiny_model.sha256
    assert builder.training.parameters["mode"] == "naive"


def test_temperature_and_pressure_reach_every_run(build):
    builder = build(temperature_K=77.0, pressure_bar=250.0)
    for stage, port in (("sampling", "md"), ("dynamics", "parameters")):
        for phase in ("crystal", "gas"):
            assert builder[f"{stage}_{phase}"][port]["temperature_K"] == 77.0
        assert builder[f"{stage}_crystal"][port]["pressure_bar"] == 250.0


def test_sampling_may_be_hotter_than_the_runs(build, tiny_model):
    hot = {"sampling_crystal": {"md": {"temperature_K": 300.0}}}
    builder = build(temperature_K=77.0, pressure_bar=250.0, overrides=hot)
    assert (builder.sampling_crystal.md["temperature_K"], builder.sampling_crystal.md["pressure_bar"]) == (300.0, 250.0)
    assert builder.sampling_gas.md["temperature_K"] == builder.dynamics_crystal.parameters["temperature_K"] == 77.0
    hot = {"sampling_crystal": {"dynamics": {"parameters": {"temperature_K": 300.0}}}}
    builder = build(sampling_model=tiny_model, temperature_K=77.0, overrides=hot)
    assert builder.model_sampling_crystal.dynamics.parameters["temperature_K"] == 300.0
    assert builder.model_sampling_gas.dynamics.parameters["temperature_K"] == 77.0


def test_a_run_is_given_its_temperature_once(build):
    twice = {"dynamics_crystal": {"parameters": {"temperature_K": 300.0}}}
    with pytest.raises(StudyError, match=r"given twice, as 77\.0 and, in the overrides, as 300\.0: give it once"):
        build(temperature_K=77.0, overrides=twice)


def test_overrides_reach_their_stage(build):
    builder = build(overrides={"dynamics_crystal": {"parameters": {"n_steps": 123, "stride": 3}}})
    assert builder.dynamics_crystal.parameters["n_steps"] == 123
    assert builder.dynamics_gas.parameters["n_steps"] != 123


def test_options_go_to_their_program(build):
    builder = build(options={"cp2k": {"max_wallclock_seconds": 77}})
    assert builder.sampling_gas.cp2k.metadata.options["max_wallclock_seconds"] == 77
    with pytest.raises(StudyError, match=r"unknown programs in the options: \['vasp'\]"):
        build(options={"vasp": {}})


def test_without_a_foundation_a_model_is_trained_from_scratch(build, start):
    builder = build(carbon_dioxide(), overrides={"foundation": None}, foundation=None)
    assert builder.training.parameters["mode"] == "scratch"
    assert builder.foundation is None
    assert start(builder).node.is_stored


def test_frames_may_come_from_dynamics_with_a_model(build, start, tiny_model, monkeypatch):
    own = {"dynamics": {"parameters": {"n_steps": 400, "stride": 4}}, "selection": {"n_frames": 7}}
    builder = build(sampling_model=tiny_model, temperature_K=77.0, overrides={"sampling_crystal": own})
    assert builder.model_sampling_crystal.dynamics.parameters["temperature_K"] == 77.0
    assert builder.model_sampling_gas.dynamics.parameters["ensemble"] == "nvt"
    assert "sampling, crystal: 400 steps of 0.5 fs" in SublimationWorkChain.describe(builder)
    assert "labelling: 27 frames" in SublimationWorkChain.describe(builder)
    process = start(builder)
    submitted = {}

    def submit(chain, **inputs):
        start(chain, **inputs)  # as its validators see it
        submitted[inputs["metadata"]["call_link_label"]] = (chain, inputs["dynamics"])
        return child(0)

    monkeypatch.setattr(process, "submit", submit)
    process.take_molecule()
    process.run_sampling()
    assert "refused" not in process.ctx
    assert {chain for chain, _ in submitted.values()} == {ModelSamplingWorkChain}
    assert submitted["model_sampling_gas"][1]["structure"].get_formula() == "H2O"
    assert submitted["model_sampling_crystal"][1]["model"].sha256 == tiny_model.sha256
    for phase, atoms in (("crystal", ice_xi()), ("gas", process.ctx.structures.gas.get_ase())):
        frames = DatasetData(Frames.from_atoms([atoms]))
        process.ctx[f"model_sampling_{phase}"] = child(
            0, dataset=frames, trajectory=frames.clone(), properties=orm.ArrayData({"step": np.arange(3)})
        )
    assert process.inspect_sampling() is None
    assert process.ctx.frames.frames.n_atoms.tolist() == [24, 3]
    assert process.outputs["model_sampling_gas"]["dataset"].n_frames == 1
    process.ctx.model_sampling_gas = child(350)
    assert process.inspect_sampling().status == SublimationWorkChain.exit_codes.ERROR_SAMPLING_FAILED.status


def test_the_model_that_samples_must_know_the_elements_and_be_alone(build, start, tiny_model):
    with pytest.raises(ModelError, match="knows"):
        build(carbon_dioxide(), overrides={"foundation": None}, foundation=None, sampling_model=tiny_model)
    builder = build()
    builder.sampling_model = tiny_model
    with pytest.raises(ValueError, match="inputs of sampling_crystal, which does not run"):
        start(builder)
    builder = build(sampling_model=tiny_model)
    del builder.sampling_model
    with pytest.raises(ValueError, match="give `sampling_model` too"):
        start(builder)


def test_labels_may_come_from_any_ase_calculator(build, start, python_code):
    level = {
        "key": "gfn2-xtb/tblite",
        "engine": "ase",
        "calculator": "tblite.ase:TBLite",
        "kwargs": {"method": "GFN2-xTB"},
    }
    builder = build(overrides={"labelling": {"level": level}})
    assert builder.labelling.python.code == python_code
    assert builder.training.level.value == "gfn2-xtb/tblite"
    assert start(builder).node.is_stored


def test_the_plan_is_told(build):
    text = SublimationWorkChain.describe(build(overrides={"dynamics_gas": {"parameters": {"n_steps": 777}}}))
    assert "8 x H2O" in text
    assert "777 steps" in text
    assert "40 frames at revpbe-d3-demo/cp2k" in text
    assert "epochs" in text
    assert len(text.splitlines()) == 8


# bad input -----------------------------------------------------------------------------------------------------------


def without_an_atom():
    atoms = ice_xi()
    del atoms[-1]
    return atoms


def cut_by_the_cell():
    atoms = carbon_dioxide()
    atoms.wrap()
    atoms.pbc = False
    return atoms


def too_close():
    atoms = ice_xi()
    atoms.positions[9] = atoms.positions[8] + [0.0, 0.0, 0.3]
    return atoms


def without_volume():
    atoms = ice_xi()
    atoms.cell[2] = atoms.cell[1]
    return atoms


@pytest.mark.parametrize(
    ("atoms", "error", "message"),
    [
        (without_an_atom(), MoleculesError, "7 x H2O, but 1 x HO"),
        (cut_by_the_cell(), FramesError, "periodic in all three directions"),
        (bulk("C", "diamond", a=3.57, cubic=True), MoleculesError, "network"),
        (without_volume(), FramesError, "no volume"),
        (too_close(), FramesError, r"0\.300 angstrom apart"),
    ],
)
def test_a_bad_crystal_is_refused_when_the_builder_is_made(build, atoms, error, message):
    with pytest.raises(error, match=message):
        build(atoms)


def test_a_bad_crystal_is_refused_when_it_is_put_into_a_builder(build, start):
    builder = build()
    with pytest.raises(ValueError, match="7 x H2O, but 1 x HO"):
        builder.crystal = orm.StructureData(ase=without_an_atom())


def test_a_foundation_must_know_the_elements(build, start):
    with pytest.raises(ModelError, match=r"does not know the elements \['C'\].*foundation: null"):
        build(carbon_dioxide())
    builder = build()
    builder.crystal = orm.StructureData(ase=carbon_dioxide())
    with pytest.raises(ValueError, match=r"does not know the elements \['C'\]"):
        start(builder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dynamics_cristal": {}}, "unknown input 'dynamics_cristal'"),
        ({"dynamics_crystal": {"parameters": {"n_step": 5}}}, "n_step"),
        ({"dynamics_crystal": {"parameters": {"temperature_K": -10.0}}}, "temperature_K"),
        ({"dynamics_crystal": {"parameters": {"n_steps": 0}}}, "n_steps"),
        ({"dynamics_gas": {"parameters": {"timestep_fs": 2.5}}}, "timestep_fs"),
        ({"sampling_crystal": {"md": {"timestep_fs": 2.5}}}, "timestep_fs"),
    ],
)
def test_bad_overrides_are_refused(build, overrides, message):
    with pytest.raises(ValueError, match=message):
        build(overrides=overrides)


def test_an_unknown_protocol_is_refused(build):
    with pytest.raises(StudyError, match="unknown protocol 'slow'"):
        build(protocol="slow")


def test_a_negative_temperature_is_refused(build):
    with pytest.raises(ValueError, match="temperature_K"):
        build(temperature_K=-100.0)


def test_misspelt_inputs_are_refused(build, start):
    builder = build()
    for namespace, name in ((builder, "cristal"), (builder.sampling_crystal, "level_"), (builder.dynamics_gas, "x")):
        with pytest.raises(AttributeError):
            setattr(namespace, name, orm.Int(1))
    inputs = builder._inputs(prune=True)
    inputs["dynamics_gas"]["parametres"] = orm.Dict({})
    with pytest.raises(ValueError, match="parametres"):
        start(SublimationWorkChain, **inputs)


@pytest.mark.parametrize("which", ["cp2k_code", "python_code", "ipi_code"])
def test_a_code_of_another_program_is_refused(build, cp2k_code, ipi_code, which):
    wrong = {"cp2k_code": ipi_code, "python_code": cp2k_code, "ipi_code": cp2k_code}[which]
    with pytest.raises(ValueError, match="not the right program"):
        build(**{which: wrong})


def test_stages_must_agree(build, start):
    builder = build()
    builder.training.level = orm.Str("pbe/vasp")
    with pytest.raises(ValueError, match="labels at level 'revpbe-d3-demo/cp2k', but the training asks for 'pbe/vasp'"):
        start(builder)
    builder = build()
    builder.dynamics_gas.parameters = orm.Dict({**builder.dynamics_gas.parameters.get_dict(), "temperature_K": 50.0})
    with pytest.raises(ValueError, match="one temperature"):
        start(builder)
    builder = build()
    builder.dynamics_gas.parameters = orm.Dict(
        {**builder.dynamics_gas.parameters.get_dict(), "ensemble": "npt-flexible"}
    )
    with pytest.raises(ValueError, match="a molecule has no cell"):
        start(builder)
    builder = build()
    del builder.foundation
    with pytest.raises(ValueError, match="give the input `foundation`"):
        start(builder)
    builder = build()
    builder.training.parameters = orm.Dict({"mode": "delta", "seed": 1})
    with pytest.raises(ValueError, match="is no potential by itself"):
        start(builder)


# failing stages ------------------------------------------------------------------------------------------------------


def child(exit_status: int, **outputs: orm.Data) -> orm.WorkChainNode:
    """Return the node of a finished work chain with outputs."""
    node = orm.WorkChainNode().store()
    for label, data in outputs.items():
        data.store()
        data.base.links.add_incoming(node, link_type=LinkType.RETURN, link_label=label)
    node.set_process_state("finished")
    node.set_exit_status(exit_status)
    node.seal()
    return node


def test_a_failed_stage_ends_the_chain_with_its_own_exit_code(build, start):
    process = start(build())
    for step, stages, code in (
        ("inspect_sampling", ("sampling_crystal", "sampling_gas"), "ERROR_SAMPLING_FAILED"),
        ("inspect_labelling", ("labelling",), "ERROR_LABELLING_FAILED"),
        ("inspect_training", ("training",), "ERROR_TRAINING_FAILED"),
        ("inspect_dynamics", ("dynamics_crystal", "dynamics_gas"), "ERROR_DYNAMICS_FAILED"),
    ):
        for stage in stages:
            process.ctx[stage] = child(0)
        process.ctx[stages[-1]] = child(312)
        result = getattr(process, step)()
        assert result.status == SublimationWorkChain.exit_codes[code].status
        if len(stages) == 2:
            assert stages[1] in result.message
            assert stages[0] not in result.message


def test_inputs_that_a_stage_refuses_are_an_exit_code_with_the_reason(build, start):
    process = start(build())
    images = [ice_xi() for _ in range(20)]
    for seed, image in enumerate(images):
        image.rattle(0.01, seed=seed)
    frames = Frames.from_atoms(images)
    level = Level(process.inputs.labelling.level["key"])
    forceless = frames.with_labels(Labels.build(level, frames.offsets, np.full(20, -1.0)))
    process.ctx.dataset = DatasetData(forceless).store()
    assert process.run_training() is None
    assert "training" not in process.ctx
    result = process.inspect_training()
    assert result.status == SublimationWorkChain.exit_codes.ERROR_STAGE_REFUSED.status == 220
    assert "training: " in result.message
    assert "no training frame has forces at level 'revpbe-d3-demo/cp2k'" in result.message


def test_a_stage_beside_a_refused_one_is_waited_for(build, start, monkeypatch):
    process = start(build())

    def refuse(chain, **inputs):
        if inputs["metadata"]["call_link_label"] == "sampling_gas":
            raise ValueError("the cell has no volume")
        return child(0)

    monkeypatch.setattr(process, "submit", refuse)
    process.take_molecule()
    process.run_sampling()
    assert [awaitable.key for awaitable in process._awaitables] == ["sampling_crystal"]
    process.ctx.sampling_crystal = child(0)
    result = process.inspect_sampling()
    assert (result.status, result.message) == (
        220,
        "The inputs of a stage are refused: sampling_gas: the cell has no volume",
    )


def test_a_crystal_that_loses_its_molecules_is_an_exit_code(build, start):
    process = start(build())
    process.inputs.crystal = orm.StructureData(ase=without_an_atom())
    result = process.take_molecule()
    assert result.status == SublimationWorkChain.exit_codes.ERROR_NO_MOLECULE.status
    assert "7 x H2O" in result.message


def test_runs_without_properties_are_an_exit_code(build, start):
    process = start(build())
    assert process.take_molecule() is None
    for phase in ("crystal", "gas"):
        process.ctx[f"dynamics_{phase}"] = child(0, properties=orm.ArrayData({"step": np.arange(3)}))
    result = process.average()
    assert result.status == SublimationWorkChain.exit_codes.ERROR_NO_AVERAGE.status
    assert "lack the array" in result.message


def test_sampled_frames_of_crystal_and_gas_are_joined_in_that_order(build, start):
    process = start(build())
    assert process.take_molecule() is None
    for phase, atoms in (("crystal", ice_xi()), ("gas", process.ctx.structures.gas.get_ase())):
        frames = DatasetData(Frames.from_atoms([atoms]))
        process.ctx[f"sampling_{phase}"] = child(
            0, dataset=frames, trajectory=frames.clone(), properties=orm.ArrayData({"step": np.arange(3)})
        )
    assert process.inspect_sampling() is None
    assert process.ctx.frames.frames.n_atoms.tolist() == [24, 3]
    assert process.outputs["sampling_gas"]["dataset"].n_frames == 1
    assert process.labels_are_missing()


@pytest.mark.parametrize("complete", [True, False])
def test_labels_of_the_sampling_are_used_if_they_are_complete_and_of_the_same_level(build, start, complete):
    process = start(build())
    level = Level(process.inputs.labelling.level["key"])
    frames = Frames.from_atoms([ice_xi(), process.inputs.crystal.get_ase()])
    energy = np.array([1.0, 2.0 if complete else np.nan])
    labelled = frames.with_labels(Labels.build(level, frames.offsets, energy, np.zeros((48, 3))))
    process.ctx.frames = DatasetData(labelled).store()
    assert process.labels_are_missing() is not complete
    assert ("dataset" in process.outputs) is complete
    bare = without_level_of(process.ctx.frames, process.inputs.labelling.level)
    assert bare.levels == {}


def test_frames_that_cannot_be_joined_are_an_exit_code(build, start):
    process = start(build())
    for number, phase in enumerate(("crystal", "gas")):
        frames = Frames.from_atoms([ice_xi()])
        labels = Labels.build(Level("x/y", method=f"method {number}"), frames.offsets, np.array([1.0]))
        dataset = DatasetData(frames.with_labels(labels))
        process.ctx[f"sampling_{phase}"] = child(
            0, dataset=dataset, trajectory=dataset.clone(), properties=orm.ArrayData({"step": np.arange(3)})
        )
    assert process.inspect_sampling().status == SublimationWorkChain.exit_codes.ERROR_FRAMES_DIFFER.status


def test_averages_are_outputs(build, start):
    process = start(build())
    process.take_molecule()
    rng = np.random.default_rng(0)
    for phase, energy in (("crystal", -100.0), ("gas", -11.9)):
        arrays = {
            "time_fs": np.arange(500) * 5.0,
            "potential_energy_eV": energy + 0.01 * rng.normal(size=500),
            "temperature_K": 100 + rng.normal(size=500),
            "volume_A3": 256.0 + rng.normal(size=500),
        }
        process.ctx[f"dynamics_{phase}"] = child(0, properties=orm.ArrayData(arrays))
    assert process.average() is None
    result = process.outputs["sublimation_enthalpy"]
    assert abs(result.value - (0.6 * EV_KJMOL + 0.831446)) < 4 * result.error
    assert result.conditions["temperature_K"] == 100.0
    assert set(process.outputs) >= {"density", "enthalpy_crystal", "enthalpy_gas", "molecule"}
