"""Forces and stress of the shipped CP2K levels, as they are, against differences of the energy."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_mlfinetune.calculations.cp2k_checks import settle_for
from aiida_mlfinetune.common.units import EV_MEV, GPA_EV_A3
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level
from tests.fixtures.finite_differences import finite_difference_frames, pairs
from tests.fixtures.waters import two_waters

LEVELS = ("gfn1-xtb", "revpbe-d3-light", "revpbe-d3", "pbe0-admm")
COORDINATES, STRAINS = [(0, 2), (4, 0)], [(0, 0), (1, 2)]
FORCE_MEV_A, STRESS_GPA = 2.0, 0.02


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_forces_and_stress_are_slopes_of_the_energy(aiida_profile, cp2k_code, validated):
    frames = Frames.from_atoms(finite_difference_frames(two_waters(), COORDINATES, STRAINS))
    dataset = DatasetData(frames).store()
    rows = []
    for name in LEVELS:
        level = settle_for(load_level(name), frames)
        builder = LabellingWorkChain.get_builder_from_protocol(
            cp2k_code,
            dataset,
            level=level,
            protocol="demo",
            overrides={"frames_per_job": len(frames)},
            options={"prepend_text": "export OMP_NUM_THREADS=2"},
        )
        outputs, node = run_get_node(builder)
        assert node.is_finished_ok, node.exit_message
        (job,) = (child for child in node.called if isinstance(child, orm.CalcJobNode))
        assert [step > 0 for step in job.outputs.output_parameters["scf_steps"]] == [True] * len(frames)
        dataset = outputs["dataset"]
        labels = dataset.frames.labels(level["key"])
        forces, stress = pairs(frames, labels, 0, COORDINATES, STRAINS)
        for (atom, axis), (label, slope) in zip(COORDINATES, forces, strict=True):
            quantity = f"{name}: force on atom {atom} along {'xyz'[axis]}"
            rows.append((quantity, label * EV_MEV, slope * EV_MEV, FORCE_MEV_A, "meV/Å"))
        for (i, j), (label, slope) in zip(STRAINS, stress, strict=True):
            quantity = f"{name}: stress {'xyz'[i]}{'xyz'[j]}"
            rows.append((quantity, label / GPA_EV_A3, slope / GPA_EV_A3, STRESS_GPA, "GPa"))
    validated(
        "Forces and stress of CP2K's levels",
        "Two water molecules in a triclinic cell of 4.4 to 4.6 Å; differences of the energy over displacements of "
        "0.001 Å and strains of 0.001 to both sides.",
        {"CP2K": labels.level.code_version},
        *(
            {
                "quantity": quantity,
                "value": round(value, 3),
                "unit": unit,
                "reference": round(slope, 3),
                "bound": bound,
                "source": "difference of the energy",
            }
            for quantity, value, slope, bound, unit in rows
        ),
    )
    for quantity, value, slope, bound, _ in rows:
        assert abs(value - slope) < bound, quantity
