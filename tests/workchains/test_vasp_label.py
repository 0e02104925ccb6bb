"""Labels by VASP, with a stand-in for the program: real energies, and all the ways in which runs fail."""

import contextlib
import io
import tarfile
import zipfile

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching
from aiida.plugins import DataFactory
from aiida.tools.archive import create_archive
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.labelling.vasp import VaspLabelWorkChain
from aiida_mlfinetune.workchains.protocols.vasp_levels import load_vasp_level
from tests.fixtures.vasp import FAMILY, made_up_potcar
from tests.fixtures.waters import two_waters

KEY = "revpbe-d3/vasp"
SIGMA_SHIFT = 0.0125
"""What the stand-in adds for each atom, in eV, from the free energy to the one extrapolated to sigma = 0."""


def level(**overrides):
    return load_vasp_level("kaur2025-vasp", {"potentials": {"family": FAMILY}, **overrides})


def crystal(scale: float = 1.0) -> Atoms:
    """Two molecules, O H H O H H, in a cell whose volume tells the frame to the stand-in."""
    atoms = two_waters()
    atoms.set_cell(atoms.cell * scale)
    assert "".join(atoms.get_chemical_symbols()) == "OHHOHH"
    return atoms


def molecule_alone() -> Atoms:
    """One molecule, H O H, without a cell."""
    return molecule("H2O")[[1, 0, 2]]


def exact(atoms: Atoms) -> Atoms:
    from tblite.ase import TBLite

    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    return atoms


@pytest.fixture
def label(vasp, potcars):
    """Return a function that labels images with the stand-in, and returns outputs and node."""

    def label(images, spec=None, **overrides):
        builder = VaspLabelWorkChain.get_builder_from_protocol(
            vasp.code, DatasetData(Frames.from_atoms(images)), spec or level(), "demo", overrides
        )
        return run_get_node(builder)

    return label


def vasp_jobs(node):
    return [job for job in node.called_descendants if isinstance(job, orm.CalcJobNode)]


def test_labels_are_those_of_the_potential_behind_the_stand_in(label):
    """To the digits that VASP prints, in the frames' own order of atoms, which POSCAR does not have."""
    crystals, gas = [crystal(), crystal(1.05)[[0, 1, 3, 2, 5, 4]]], molecule_alone()
    outputs, node = label([*crystals, gas])
    assert node.is_finished_ok, node.exit_message
    frames = outputs["dataset"].frames
    labels = frames.labels(KEY)
    assert labels.counts == {"energy": 3, "forces": 3, "stress": 2}
    for index, atoms in enumerate(map(exact, crystals)):
        assert labels.energy[index] == pytest.approx(atoms.get_potential_energy(), abs=1.1e-8)
        np.testing.assert_allclose(labels.forces[frames.slice(index)], atoms.get_forces(), atol=1.1e-8)
        np.testing.assert_allclose(labels.stress[index], atoms.get_stress(voigt=False), atol=1e-10)
    # A molecule gets a cube of 5 A of vacuum on each side
    gas.set_cell(np.eye(3) * 12.0)
    gas.center()
    gas.pbc = True
    assert labels.energy[2] == pytest.approx(exact(gas).get_potential_energy(), abs=1.1e-8)
    np.testing.assert_allclose(labels.forces[frames.slice(2)], exact(gas).get_forces(), atol=1.1e-8)
    assert not frames.pbc[2].any()
    assert labels.level.energy == EnergyKind.FREE
    assert (labels.level.engine, labels.level.code, labels.level.code_version) == ("vasp", "VASP", "6.4.3")
    assert labels.level.settings["incar"]["gga"] == "RE"
    assert outputs["dataset"].level_sources == {KEY: [node.uuid]}
    assert outputs["failed"].get_dict() == {}
    jobs = vasp_jobs(node)
    assert len(jobs) == 3
    for job in jobs:
        assert job.process_type == "aiida.calculations:vasp.vasp"
        assert set(job.outputs.retrieved.list_object_names()) == {
            *("CONTCAR", "OUTCAR", "vasprun.xml", "vasp_output"),
            *("_scheduler-stderr.txt", "_scheduler-stdout.txt"),
        }
        assert [site.kind_name for site in job.inputs.structure.sites] == sorted(
            site.kind_name for site in job.inputs.structure.sites
        )


@pytest.mark.parametrize("version", ["6.4.3", "5.4.4"])
def test_the_other_energy_on_request_costs_no_run(label, vasp, version):
    """VASP 5 prints the entropy under the name of the extrapolated energy, and electronic steps lack the dispersion."""
    vasp.rules({"version": version})
    atoms = crystal(1.2 if version.startswith("6") else 1.21)
    with enable_caching():
        label([atoms])
        vasp.runs  # noqa: B018 - empties the log
        outputs, node = label([atoms], level(energy="sigma0", key="revpbe-d3-sigma0/vasp"))
        assert vasp.runs == []
    assert node.is_finished_ok
    labels = outputs["dataset"].frames.labels("revpbe-d3-sigma0/vasp")
    expected = exact(atoms).get_potential_energy() + 6 * SIGMA_SHIFT
    assert labels.energy[0] == pytest.approx(expected, abs=3.1e-8)
    assert labels.level.energy == EnergyKind.SIGMA0
    assert labels.level.code_version == version


BROKEN = {
    # What happens: what the reason says, how many runs of VASP it took, and whether another job may succeed
    "unconverged": ("electronic structure is not converged", 5, False),
    "killed": ("did not reach the end of execution", 2, False),
    "zbrent": ("VASP said: Error in ZBRENT", 2, False),
    "truncated": ("vasprun.xml lacks energy", 1, True),
    "no-potcar": ("marked by the parser as critical is missing", 1, False),
}


def test_each_failure_is_told_by_frame_and_the_rest_is_kept_and_a_rerun_does_only_the_rest(label, vasp):
    images = [crystal(1.1 + 0.01 * number) for number in range(len(BROKEN) + 2)]
    volume = {name: images[i + 1].get_volume() for i, name in enumerate(BROKEN)}
    vasp.rules(*({"volume": volume[name], "fail": name} for name in BROKEN))
    with enable_caching():
        outputs, node = label(images, max_concurrent=3)
        assert node.exit_status == VaspLabelWorkChain.exit_codes.ERROR_INTERRUPTED.status
        assert f"1 of {len(images)} frames: vasprun.xml lacks" in node.exit_message
        failed = outputs["failed"].get_dict()
        assert sorted(failed) == [str(i + 1) for i in range(len(BROKEN))]
        runs = [line for line in vasp.runs if line[0] == "start"]
        for i, (name, (reason, n_runs, retry)) in enumerate(BROKEN.items()):
            assert reason in failed[str(i + 1)]["reason"], name
            assert failed[str(i + 1)]["retry"] is retry, name
            assert sum(line[4] == name for line in runs) == n_runs, name
        assert outputs["dataset"].frames.volumes == pytest.approx([images[0].get_volume(), images[-1].get_volume()])
        vasp.rules()
        outputs, node = label(images, max_concurrent=3)
        again = {line[3] for line in vasp.runs}
    # A frame that did not converge is answered from the cache: it would not converge as it is
    assert list(outputs["failed"].get_dict()) == ["1"]
    assert node.is_finished_ok
    assert outputs["dataset"].n_frames == len(images) - 1
    assert sorted(again) == pytest.approx(sorted(v for name, v in volume.items() if name != "unconverged"))


def test_the_handlers_of_aiida_vasp_are_in_force(vasp, potcars):
    """A run that was killed is tried again, and one that did not converge gets more electronic steps."""
    images = [crystal(), crystal(1.02)]
    vasp.rules(
        {"volume": images[0].get_volume(), "fail": "killed", "times": 1},
        {"volume": images[1].get_volume(), "fail": "unconverged", "below": 100},
    )
    dataset = DatasetData(Frames.from_atoms(images))
    builder = LabellingWorkChain.get_builder_from_protocol(vasp.code, dataset, level(incar={"nelm": 60}), "demo")
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    assert outputs["dataset"].frames.labels(KEY).counts == {"energy": 2, "forces": 2, "stress": 2}
    assert outputs["failed"].get_dict() == {}
    assert sorted(line[4] for line in vasp.runs if line[0] == "start") == [
        *("", "killed"),
        *("unconverged", "unconverged"),
    ]
    nelm = {job.inputs.parameters["nelm"] for job in vasp_jobs(node)}
    assert nelm == {60, 150}


def test_no_frame_is_labelled(label, vasp):
    vasp.rules({"fail": "not-started"})
    outputs, node = label([crystal()])
    assert node.exit_status == VaspLabelWorkChain.exit_codes.ERROR_NO_FRAME_LABELLED.status
    assert "critical is missing" in node.exit_message
    assert "dataset" not in outputs
    assert list(outputs["failed"].get_dict()) == ["0"]


def test_the_next_frame_starts_when_any_ends_and_never_more_than_allowed_run(label, vasp):
    """The first frame lasts until two others have ended: in waves, only the second would."""
    images = [crystal(1 + 0.01 * number) for number in range(4)]
    vasp.rules({"volume": images[0].get_volume(), "others": 2})
    _, node = label(images, max_concurrent=2)
    assert node.is_finished_ok, node.exit_message
    running, most, ended = 0, 0, []
    for what, _, _, volume, _ in vasp.runs:
        running += 1 if what == "start" else -1
        most = max(most, running)
        ended += [volume] if what == "end" else []
    assert most == 2
    assert images[0].get_volume() in [pytest.approx(volume) for volume in ended[2:]]
    # One process for each frame beside its job, and one set of the inputs that frames share
    assert len(node.called_descendants) == 2 * len(images) + 3


def test_no_potential_gets_into_the_repository_or_an_archive(label, tmp_path):
    outputs, node = label([crystal()])
    secrets = [row.strip() for symbol in ("H_h", "O_h") for row in made_up_potcar(symbol).splitlines()[12:-1]]
    assert min(map(len, secrets)) > 60
    for job in vasp_jobs(node):
        assert "POTCAR" not in job.base.repository.list_object_names()
        assert "POTCAR" not in job.outputs.retrieved.list_object_names()
    archive = tmp_path / "run.aiida"
    create_archive([node, outputs["dataset"]], filename=archive)
    types, text = read_archive(archive)
    assert "data.vasp.potcar.PotcarData." in types
    assert "data.vasp.potcar_file.PotcarFileData." not in types
    assert "<modeling>" in text
    assert not [secret for secret in secrets if secret in text]
    # The same look finds a potential that is exported on purpose
    whole = tmp_path / "whole.aiida"
    files = orm.QueryBuilder().append(DataFactory("vasp.potcar_file"), project="*").all(flat=True)
    create_archive(files, filename=whole)
    types, text = read_archive(whole)
    assert "data.vasp.potcar_file.PotcarFileData." in types
    assert all(secret in text for secret in secrets)


def read_archive(path):
    """Return the types of the nodes in an archive, and the text of its files, those in tar files included."""
    from aiida.tools.archive.abstract import get_format

    with get_format().open(path, "r") as reader:
        types = {name for (name,) in reader.querybuilder().append(orm.Node, project="node_type").all()}
    parts = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            parts.append(content)
            with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(content)) as inner:
                parts += [inner.extractfile(member).read() for member in inner.getmembers() if member.isfile()]
    return types, b"\0".join(parts).decode("latin-1")
