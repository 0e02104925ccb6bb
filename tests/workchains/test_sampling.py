"""The sampling work chain: its builder, and short runs of real CP2K at GFN1-xTB."""

import shutil

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.calculations.cp2k_md import md_parameters
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings
from aiida_mlfinetune.workchains import sampling
from aiida_mlfinetune.workchains.protocols.levels import load_level
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain, validate_inputs
from tests.fixtures.codes import PREPEND
from tests.fixtures.waters import two_waters

LEVEL = "gfn1-xtb/cp2k"
SHORT = {
    "md": {"n_steps": 6, "stride": 2, "seed": 7},
    "selection": {"n_frames": 2, "equilibration": 0.0, "volume_range": None},
}


def crystal(atoms=None):
    return orm.StructureData(ase=atoms or two_waters())


def gas():
    return orm.StructureData(ase=molecule("H2O"))


def build(code, structure=None, overrides=None, protocol="demo", **kwargs):
    return SamplingWorkChain.get_builder_from_protocol(code, structure or crystal(), protocol, overrides, **kwargs)


def test_narrow_cells_at_the_gamma_point_are_warned_about(cp2k_code, monkeypatch):
    said = []
    monkeypatch.setattr(sampling.AIIDA_LOGGER, "warning", said.append)
    build(cp2k_code, crystal(two_waters().repeat(2)))
    build(cp2k_code, gas())
    assert said == []
    build(cp2k_code)
    (warning,) = said
    assert "take a supercell (2 x 2 x 2)" in warning


def test_the_grid_is_that_of_the_crystal(cp2k_code):
    """So that the labels of a run are at one level, and at that of other labels of its crystals."""
    wide, alike = crystal(two_waters().repeat(2)), two_waters().repeat(2)
    alike.set_cell(1.02 * alike.cell, scale_atoms=True)
    for ensemble in ("nvt", "npt-flexible"):
        level = build(cp2k_code, wide, level="revpbe-d3-demo", ensemble=ensemble).level
        assert level["grid_cells"] == {"H32O16": [wide.get_ase().cell.round(6).tolist()]}
    shared = build(cp2k_code, wide, level="revpbe-d3-demo", crystals=[crystal(alike), wide]).level
    assert shared["grid_cells"] == {"H32O16": [alike.cell.round(6).tolist()]}
    for structure, name in ((wide, "gfn1-xtb"), (gas(), "revpbe-d3-demo")):
        assert "grid_cells" not in build(cp2k_code, structure, level=name).level.get_dict()
    builder = build(cp2k_code, wide, level="revpbe-d3-demo")
    builder.level = orm.Dict(load_level("revpbe-d3-demo"))
    assert "name a reference cell in `grid_cells`" in validate_inputs(builder._inputs(prune=True))


def test_a_pressure_without_a_barostat_is_warned_about(cp2k_code, monkeypatch):
    wide, said = crystal(two_waters().repeat(2)), []
    monkeypatch.setattr(sampling.AIIDA_LOGGER, "warning", said.append)
    build(cp2k_code, wide, ensemble="nvt")
    build(cp2k_code, wide, pressure_bar=5.0)
    build(cp2k_code, gas(), pressure_bar=5.0)
    assert said == []
    build(cp2k_code, wide, ensemble="nvt", pressure_bar=5.0)
    build(cp2k_code, wide, {"md": {"pressure_bar": 5.0}}, ensemble="nvt")
    assert [text.split(":")[0] for text in said] == ["pressure_bar is 5, but ensemble 'nvt' has no barostat"] * 2


# runs of real CP2K


def test_flexible_cell_leads_to_labelled_frames_with_provenance(cp2k_code):
    outputs, node = run_get_node(build(cp2k_code, overrides=SHORT, ensemble="npt-flexible"))
    assert node.is_finished_ok, node.exit_message
    trajectory = outputs["trajectory"].frames
    assert trajectory.steps.tolist() == [0, 2, 4, 6]
    assert trajectory.labels(LEVEL).counts == {"energy": 4, "forces": 4, "stress": 4}
    assert len(np.unique(trajectory.volumes.round(6))) == 4
    shape = trajectory.cells[-1] / np.cbrt(trajectory.volumes[-1])
    assert not np.allclose(shape, trajectory.cells[0] / np.cbrt(trajectory.volumes[0]), atol=1e-5)
    dataset = outputs["dataset"]
    assert dataset.is_subset
    assert set(dataset.frames.steps) < {0, 2, 4, 6}
    (job,) = node.base.links.get_outgoing(link_type=LinkType.CALL_CALC, link_label_filter="iteration_%").all_nodes()
    assert dataset.frames.sources == (job.uuid,)
    assert dataset.level_sources == {LEVEL: [job.uuid]}
    assert dataset.creator.inputs.dataset.creator == job
    assert outputs["properties"].get_array("step").tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_isotropic_barostat_keeps_the_shape_and_frames_are_spread_over_volumes(cp2k_code):
    overrides = {**SHORT, "selection": {"n_frames": 3, "equilibration": 0.0, "volume_range": [0.9, 1.2]}}
    outputs, node = run_get_node(build(cp2k_code, overrides=overrides, ensemble=Ensemble.NPT_ISOTROPIC))
    assert node.is_finished_ok, node.exit_message
    frames = outputs["trajectory"].frames
    assert abs(frames.volumes[-1] / frames.volumes[0] - 1) > 1e-7
    np.testing.assert_allclose(
        frames.cells / np.cbrt(frames.volumes)[:, None, None],
        np.broadcast_to(frames.cells[0] / np.cbrt(frames.volumes[0]), (4, 3, 3)),
        atol=1e-7,
    )
    volumes = outputs["dataset"].frames.volumes / 91.08
    assert (volumes > 0.9).all()
    assert (volumes < 1.2).all()
    assert volumes.std() > 0.01
    assert outputs["dataset"].levels == {}


def test_molecule_is_sampled_without_a_cell(cp2k_code):
    outputs, node = run_get_node(build(cp2k_code, gas(), SHORT))
    assert node.is_finished_ok, node.exit_message
    assert node.inputs.md["ensemble"] == "nvt"
    frames = outputs["dataset"].frames
    assert not frames.pbc.any()
    assert frames.labels(LEVEL).counts == {"energy": 2, "forces": 2, "stress": 0}
    # GFN1-xTB is one method: tblite gives the same energy (hartree) for the first frame
    from tblite.interface import Calculator

    first = outputs["trajectory"].frames
    result = Calculator("GFN1-xTB", first.numbers[:3], first.positions[:3] / 0.529177210903)
    result.set("verbosity", 0)
    energy = result.singlepoint().get("energy")
    assert first.labels(LEVEL).energy[0] / 27.211386 == pytest.approx(energy, abs=2e-3)


INTERRUPTED = """#!/bin/bash
# CP2K that is ended from outside in its first run, after the restart file of step 4 was written
if [ -e parent_calc/aiida-1.restart ]; then exec {cp2k} "$@"; fi
{cp2k} "$@" &
while kill -0 $! 2>/dev/null; do
    grep -q "Step number  *5$" aiida.out && kill -9 $!
    sleep 0.02
done
"""


def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    cp2k_code, aiida_code_installed, aiida_localhost, tmp_path
):
    script = tmp_path / "cp2k.sh"
    script.write_text(INTERRUPTED.format(cp2k=shutil.which("cp2k.psmp")))
    script.chmod(0o755)
    code = aiida_code_installed(
        label="interrupted",
        computer=aiida_localhost,
        default_calc_job_plugin="cp2k",
        filepath_executable=str(script),
        prepend_text=PREPEND,
    )
    overrides = {**SHORT, "md": {"n_steps": 10, "stride": 2, "seed": 7}}
    outputs, node = run_get_node(build(code, overrides=overrides))
    assert node.is_finished_ok, node.exit_message
    jobs = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert [job.exit_status for job in jobs] == [410, 0]
    frames = outputs["trajectory"].frames
    assert frames.steps.tolist() == [0, 2, 4, 6, 8, 10]
    assert frames.sources == tuple(job.uuid for job in jobs)
    assert outputs["properties"].get_array("step").tolist() == list(range(11))
    reference, _ = run_get_node(build(cp2k_code, overrides=overrides))
    np.testing.assert_allclose(frames.positions, reference["trajectory"].frames.positions, atol=1e-6)
    np.testing.assert_allclose(frames.cells, reference["trajectory"].frames.cells, atol=1e-6)
    np.testing.assert_allclose(
        outputs["properties"].get_array("potential_energy_eV"),
        reference["properties"].get_array("potential_energy_eV"),
        atol=1e-5,
    )


def test_a_failed_run_is_not_read(cp2k_code):
    level = {"level_overrides": {"parameters": {"DFT": {"SCF": {"NO_SUCH_KEYWORD": 1}}}}}
    _, node = run_get_node(build(cp2k_code, overrides={**SHORT, **level}))
    assert node.exit_status == 402
    (job,) = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert job.exit_status == 211
    assert "NO_SUCH_KEYWORD" in job.exit_message


# exit codes that need no run


@pytest.fixture
def process(cp2k_code):
    return instantiate_process(get_manager().get_runner(), build(cp2k_code, overrides=SHORT))


def cut_short(step):
    """Return a finished job that ran out of time with a restart file of ``step``."""
    node = orm.CalcJobNode(process_type="aiida.calculations:mlfinetune.cp2k_md").store()
    node.set_exit_status(400)
    node.set_process_state("finished")
    for name, data in (
        ("output_parameters", orm.Dict({"restart_step": step})),
        ("remote_folder", orm.RemoteData(remote_path="/tmp", computer=orm.load_computer("localhost"))),
    ):
        data.base.links.add_incoming(node, LinkType.CREATE, name)
        data.store()
    return node


def test_a_restart_that_gets_no_further_is_an_error(process):
    process.setup()
    process.make_parameters()
    assert process.continue_from_restart_file(cut_short(4)).exit_code.status == 0
    assert process.ctx.inputs.parameters["MOTION"]["MD"]["STEPS"] == 2
    assert process.continue_from_restart_file(cut_short(4)).exit_code == SamplingWorkChain.exit_codes.ERROR_NO_PROGRESS


def test_too_few_frames_are_an_error(process):
    process.ctx.trajectory = DatasetData(frames=_frames(1))
    code = process.select()
    assert code.status == SamplingWorkChain.exit_codes.ERROR_TOO_FEW_FRAMES.status
    assert "2 frames are wanted" in code.message


def test_no_frame_at_all_is_an_error(process):
    process.ctx.children = [cut_short(0)]
    assert process.join().status == SamplingWorkChain.exit_codes.ERROR_TOO_FEW_FRAMES.status


def _frames(n):
    from aiida_mlfinetune.science.datasets.frames import Frames

    return Frames.from_atoms([two_waters()] * n)


# builders


def test_kaur2025_has_the_published_numbers(cp2k_code):
    builder = build(cp2k_code, protocol="kaur2025")
    md = builder.md.get_dict()
    assert md["ensemble"] == "npt-isotropic"
    assert md["temperature_K"] == 100.0
    assert md["pressure_bar"] == 1.0
    assert md["n_steps"] * md["timestep_fs"] == 5000.0
    assert builder.selection["n_frames"] == 500
    assert builder.selection["method"] == "random"
    assert builder.selection["volume_range"] is None
    level = builder.level.get_dict()
    dft = level["parameters"]["DFT"]
    assert dft["MGRID"]["CUTOFF"] == 500
    assert level["kind"] == {"BASIS_SET": "TZV2P-GTH", "POTENTIAL": "GTH-PBE"}
    assert dft["XC"]["XC_FUNCTIONAL"] == {"PBE": {"PARAMETRIZATION": "REVPBE"}}
    pair = dft["XC"]["VDW_POTENTIAL"]["PAIR_POTENTIAL"]
    assert (pair["TYPE"], pair["REFERENCE_FUNCTIONAL"]) == ("DFTD3", "revPBE")  # zero damping, not DFTD3(BJ)
    assert "KPOINTS" not in dft
    assert builder.level["key"] == "revpbe-d3/cp2k"


@pytest.mark.parametrize("protocol", ["demo", "fast", "balanced", "kaur2025"])
def test_every_protocol_builds_for_crystal_and_molecule(cp2k_code, protocol):
    assert build(cp2k_code, protocol=protocol).md["ensemble"].startswith("npt")
    builder = build(cp2k_code, gas(), protocol=protocol)
    assert builder.md["ensemble"] == "nvt"
    assert builder.selection["volume_range"] is None


def test_mpi_is_used_for_several_processes_only(cp2k_code):
    assert build(cp2k_code).cp2k.metadata.options["withmpi"] is False
    options = {"resources": {"num_machines": 1, "num_mpiprocs_per_machine": 2}}
    assert build(cp2k_code, options=options).cp2k.metadata.options["withmpi"] is True


def too_close():
    return Atoms("H2", [[0, 0, 0], [0, 0, 0.3]], cell=[5, 5, 5], pbc=True)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"protocol": "quick"}, "unknown protocol 'quick'"),
        ({"overrides": {"md": {"n_step": 5}}}, "unknown input 'md.n_step'"),
        ({"overrides": {"structures": 1}}, "unknown input 'structures'"),
        ({"temperature_K": -5.0}, "temperature_K is -5.0"),
        ({"overrides": {"md": {"n_steps": 0}}}, "n_steps is 0"),
        ({"overrides": {"md": {"timestep_fs": 2.5}}}, "timestep_fs is 2.5, over 2.0 fs"),
        ({"overrides": {"md": {"seed": 0}}}, "seed is 0"),
        ({"overrides": {"md": {"stride": 1000}}}, "stride"),
        ({"ensemble": "npt"}, "unknown ensemble 'npt'"),
        ({"structure": gas, "ensemble": "npt-flexible"}, "molecule without one"),
        ({"level": "pbe"}, "unknown CP2K level 'pbe'"),
        (
            {"overrides": {"level_overrides": {"parameters": {"DFT": {"SCF": {"EPS_SFC": 1}}}}}},
            "did you mean 'EPS_SCF'",
        ),
        ({"overrides": {"level_overrides": {"parameters": {"dft": {}}}}}, "not upper case"),
        ({"overrides": {"selection": {"n_frames": 500}}}, None),
    ],
)
def test_bad_input_is_refused_when_the_builder_is_made(cp2k_code, arguments, match):
    arguments = {name: value() if callable(value) else value for name, value in arguments.items()}
    if match is None:
        builder = build(cp2k_code, **arguments)
        with pytest.raises(ValueError, match="500 frames are wanted"):
            instantiate_process(get_manager().get_runner(), builder)
        return
    with pytest.raises(StudyError, match=match):
        build(cp2k_code, **arguments)


@pytest.mark.parametrize(
    ("atoms", "match"),
    [
        (too_close(), "0.300 angstrom apart"),
        (Atoms("Ar", cell=[[5, 0, 0], [0, 5, 0], [5, 5, 0]], pbc=True), "no volume"),
        (Atoms("Ar", cell=[5, 5, 5], pbc=[True, True, False]), "some directions only"),
    ],
)
def test_bad_structures_are_refused(cp2k_code, atoms, match):
    with pytest.raises(ValueError, match=match):
        build(cp2k_code, orm.StructureData(ase=atoms))


def test_a_code_of_another_program_is_refused(ipi_code):
    with pytest.raises(ValueError, match="not the right program"):
        build(ipi_code)


def test_misspelt_inputs_are_refused(cp2k_code):
    builder = build(cp2k_code)
    with pytest.raises(AttributeError):
        builder.strukture = crystal()
    builder = SamplingWorkChain.get_builder()
    with pytest.raises((AttributeError, ValueError)):
        builder.cp2k.codes = cp2k_code


def test_large_time_step_may_be_asked_for(cp2k_code):
    overrides = {"md": {"timestep_fs": 2.5, "allow_large_timestep": True}}
    assert build(cp2k_code, overrides=overrides).md["timestep_fs"] == 2.5
    heavy = orm.StructureData(
        ase=Atoms("Ar4", [[0, 0, 0], [0, 2.6, 2.6], [2.6, 0, 2.6], [2.6, 2.6, 0]], cell=[5.2] * 3, pbc=True)
    )
    assert build(cp2k_code, heavy, {"md": {"timestep_fs": 2.5}}).md["timestep_fs"] == 2.5


def test_volume_range_of_a_hand_made_selection_needs_its_reference(cp2k_code):
    builder = build(cp2k_code)
    with pytest.raises(ValueError, match="reference_volume_A3"):
        builder.selection = orm.Dict({"n_frames": 2, "seed": 1, "volume_range": [0.9, 1.1]})


def test_tagged_kinds_are_refused(cp2k_code):
    structure = orm.StructureData(cell=[[5, 0, 0], [0, 5, 0], [0, 0, 5]])
    structure.append_atom(position=(0, 0, 0), symbols="O", name="O1")
    with pytest.raises(ValueError, match="O1"):
        build(cp2k_code, structure)


def test_ensembles_become_those_of_cp2k():
    level = load_level("gfn1-xtb")
    for ensemble, name in (("nve", "NVE"), ("nvt", "NVT"), ("npt-isotropic", "NPT_I"), ("npt-flexible", "NPT_F")):
        settings = MdSettings.from_dict({"ensemble": ensemble, "temperature_K": 90.0, "n_steps": 10, "seed": 3})
        md = md_parameters(level, settings, two_waters())["MOTION"]["MD"]
        assert md["ENSEMBLE"] == name
        assert ("THERMOSTAT" in md) == (ensemble != "nve")
        assert ("BAROSTAT" in md) == ensemble.startswith("npt")
