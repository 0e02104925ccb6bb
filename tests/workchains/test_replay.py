"""``mlfinetune.replay`` with the real programs on tiny models."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.common.errors import FramesError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.training.replay import FrameDescriptors, farthest_points
from aiida_mlfinetune.workchains.replay import ReplayWorkChain

LEVEL = Level("pbe/vasp", engine="vasp", method="PBE")
WATERS, OXYGENS = 12, 5


@pytest.fixture(scope="module")
def frames():
    """Twelve distorted water molecules, the last without a label, and five of oxygen."""
    rng = np.random.default_rng(5)
    images = [molecule("H2O") for _ in range(WATERS)] + [Atoms("O2", [[0, 0, 0], [0, 0, 1.2]]) for _ in range(OXYGENS)]
    for image in images:
        image.positions += rng.normal(scale=0.05, size=image.positions.shape)
    found = Frames.from_atoms(images, source="foundation data")
    energy = rng.normal(size=len(images))
    energy[WATERS - 1] = np.nan
    return found.with_labels(Labels.build(LEVEL, found.offsets, energy))


@pytest.fixture
def foundation(aiida_profile, tiny_model_file, make_model_data):
    return make_model_data(tiny_model_file, levels={"Default": LEVEL.key})


@pytest.fixture
def make_builder(python_code, frames, foundation):
    def make(elements=("H", "O"), parameters=None, protocol="demo", **kwargs):
        kwargs.setdefault("code", python_code)
        kwargs.setdefault("dataset", DatasetData(frames))
        kwargs.setdefault("model", foundation)
        overrides = {"parameters": {"n_frames": 6, "seed": 2, **(parameters or {})}}
        return ReplayWorkChain.get_builder_from_protocol(
            elements=elements, protocol=protocol, overrides=overrides, **kwargs
        )

    return make


def calculations(node):
    return [child.process_label for child in node.called if isinstance(child, orm.CalcJobNode)]


def test_farthest_points_of_too_many(make_builder, frames):
    outputs, node = run_get_node(make_builder())
    assert node.is_finished_ok, node.exit_message
    assert calculations(node) == ["MaceDescriptorsCalculation"]
    chosen = outputs["dataset"]
    assert chosen.is_subset
    assert set(chosen.frames.formulas) == {"H2O"}
    assert chosen.frames.labels(LEVEL.key).has_energy.all()
    (job,) = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert job.inputs.dataset.n_frames == WATERS - 1  # the one without a label is no candidate
    descriptors = FrameDescriptors(*(job.outputs.descriptors.get_array(name) for name in ("frame", "number", "mean")))
    expected, distances = farthest_points(descriptors, 6, seed=2)
    assert chosen.indices.tolist() == expected.tolist()
    assert outputs["selection"].get_dict() == {
        "n_candidates": WATERS - 1,
        "n_random": 0,
        "farthest_points": True,
        "radius": pytest.approx(distances[-1]),
    }
    assert chosen.creator.process_label == "farthest_replay"  # the graph leads back through the descriptors
    assert chosen.creator.inputs.descriptors.creator.pk == job.pk


def test_runs_on_the_same_elements_share_descriptors_and_set(make_builder):
    with enable_caching():
        first, _ = run_get_node(make_builder())
        again, node = run_get_node(make_builder())
        larger, other = run_get_node(make_builder(parameters={"n_frames": 8}))
    for run in (node, other):
        (job,) = [child for child in run.called if isinstance(child, orm.CalcJobNode)]
        assert job.base.caching.is_created_from_cache
    assert again["dataset"].content_hash == first["dataset"].content_hash
    assert larger["dataset"].indices[:6].tolist() == first["dataset"].indices.tolist()


def test_too_few_are_filled_at_random_and_the_foundation_labels_them(make_builder):
    outputs, node = run_get_node(make_builder(parameters={"n_frames": 14, "labels": "foundation"}))
    assert node.is_finished_ok, node.exit_message
    assert calculations(node) == ["MaceEvaluateCalculation"]
    frames = outputs["dataset"].frames
    assert frames.formulas.count("H2O") == WATERS
    assert frames.formulas.count("O2") == 2
    assert outputs["selection"].get_dict() == {"n_candidates": WATERS, "n_random": 2, "farthest_points": False}
    key = f"{node.inputs.model.sha256[:8]}/mace"
    assert set(frames.labels_by_level) == {LEVEL.key, key}
    assert frames.labels(key).has_energy.all()
    assert frames.labels(key).level.settings["head"] == "Default"


def test_jobs_that_fail_end_the_chain():
    codes = ReplayWorkChain.exit_codes
    job = SimpleNamespace(is_finished_ok=False, exit_status=301, exit_message="cut short")
    chain = SimpleNamespace(ctx=AttributeDict({"described": job, "predicted": job}), exit_codes=codes)
    failed = ReplayWorkChain.take_farthest(chain)
    assert (failed.status, failed.message) == (
        codes.ERROR_DESCRIPTORS_FAILED.status,
        "The descriptors failed: [301] cut short",
    )
    assert ReplayWorkChain.inspect_prediction(chain).status == codes.ERROR_PSEUDOLABELS_FAILED.status


def test_published_sizes():
    published = {"mace-mp": 100_000, "caco3": 10_000}
    for protocol, size in published.items():
        assert ReplayWorkChain.get_protocol_inputs(protocol)["parameters"]["n_frames"] == size
    assert ReplayWorkChain.get_protocol_inputs()["parameters"]["elements"] == "at-least-two"


def test_new_data_give_their_elements(make_builder, frames):
    assert make_builder(elements=DatasetData(frames)).elements.get_list() == ["H", "O"]
    assert make_builder(elements=["O", "H"]).elements.get_list() == ["H", "O"]


def test_bad_input_is_refused_when_the_builder_is_made(make_builder, ipi_code, foundation, tiny_model):
    with pytest.raises(StudyError, match="of 17 frames is asked for, but only 16 can be used"):
        make_builder(parameters={"n_frames": 17})
    with pytest.raises(StudyError, match="no level 'scan/vasp': they have \\['pbe/vasp'\\]"):
        make_builder(parameters={"level": "scan/vasp"})
    with pytest.raises(StudyError, match="not the right program"):
        make_builder(code=ipi_code)
    with pytest.raises(StudyError, match="list each once"):
        make_builder(elements=())
    with pytest.raises(FramesError, match="'elements' is 'some'"):
        make_builder(parameters={"elements": "some"})
    with pytest.raises(StudyError, match=r"unknown input 'parameters\.size'"):
        make_builder(parameters={"size": 3})
    with pytest.raises(StudyError, match="no level 'gfn1-xtb/cp2k'"):
        make_builder(model=tiny_model)
    passport = foundation.passport
    unnamed = MaceModelData(foundation.content(), replace(passport, levels={}))
    with pytest.raises(StudyError, match="does not name its level of theory"):
        make_builder(model=unnamed)
    hydrogen = MaceModelData(foundation.content(), replace(passport, elements=["H"]))
    with pytest.raises(StudyError, match="the foundation does not know the elements \\['O'\\]"):
        make_builder(model=hydrogen)
    e0s = dict.fromkeys(("a", "b"), passport.e0s["Default"])
    two = MaceModelData(foundation.content(), replace(passport, heads=["a", "b"], e0s=e0s, levels={}))
    with pytest.raises(StudyError, match="say in the parameter 'head'"):
        make_builder(model=two, parameters={"labels": "foundation"})
    assert make_builder(model=two, parameters={"labels": "foundation"}, head="a").prediction["head"] == "a"


def test_inputs_are_checked_together_without_a_builder(make_builder):
    builder = make_builder()
    builder.elements = orm.List(["O", "H"])
    with pytest.raises(ValueError, match="in alphabetical order"):
        run_get_node(builder)
