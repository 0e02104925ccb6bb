"""The report of a diagnosis of reference energies says what is determined and what is not."""

from __future__ import annotations

import numpy as np
from aiida import orm
from ase.build import molecule

from aiida_mlfinetune.calculations.functions.reference_energies import diagnose_reference_energies
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.report import collect, render
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from tests.report import synthetic

LEVEL = Level("pbe/made-up", engine="made-up")


def waters(seed: int) -> DatasetData:
    rng = np.random.default_rng(seed)
    images = [molecule("H2O") for _ in range(3)]
    for image in images:
        image.positions += rng.normal(scale=0.1, size=(3, 3))
    frames = Frames.from_atoms(images)
    return DatasetData(frames.with_labels(Labels.build(LEVEL, frames.offsets, rng.normal(-470, 0.1, 3))))


def test_a_diagnosis_is_shown_with_what_it_cannot_tell(aiida_profile):
    sets = {"train": waters(1), "valid": waters(2)}
    diagnosis = diagnose_reference_energies(**sets, level=orm.Str(LEVEL.key))
    top = synthetic.process(orm.WorkChainNode, "ReferenceEnergiesWorkChain", inputs={"level": orm.Str(LEVEL.key)})
    diagnosis.base.links.add_incoming(top, synthetic.LinkType.RETURN, "diagnosis")
    page = collect(synthetic.finish(top))
    (headline,) = page.headlines
    assert headline.conditions == f"labels at {LEVEL.key}"
    assert headline.unit == "meV/atom"
    html = render(page)
    assert 'id="reference-energies"' in html
    assert "H and O separately are not determined: only 2 H + O." in html
    assert "no total changes with H +1, O -2 eV" in html
    assert "1 of 2 elements" in html
