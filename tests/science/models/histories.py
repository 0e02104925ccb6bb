"""Models that never were, with a history to write about."""

from __future__ import annotations

from typing import Any

from aiida_mlfinetune.science.datasets.levels import Level
from aiida_mlfinetune.science.models.history import DatasetRecord, ModelHistory, ProcessRecord
from aiida_mlfinetune.science.models.passport import Passport

LEVEL = Level(
    "revpbe-d3/cp2k",
    engine="cp2k",
    method="revPBE-D3(zero)",
    basis="TZV2P-MOLOPT-GTH, GTH-PBE, 1200 Ry",
    code="CP2K",
    code_version="2023.1",
    settings={"cutoff_Ry": 1200},
)


def passport(digit: str = "a", **fields: Any) -> Passport:
    return Passport(
        **{
            "sha256": digit * 64,
            "mace_version": "0.3.16",
            "r_max": 5.0,
            "elements": ["H", "O"],
            "heads": ["Default"],
            "e0s": {"Default": {"H": -13.5, "O": -432.25}},
            "dtype": "float32",
            "n_parameters": 90840,
            "architecture": {"class": "ScaleShiftMACE", "correlation": 2, "distance_transform": None},
            **fields,
        }
    )


def dataset(role: str, n_frames: int = 4, start: int = 0) -> DatasetRecord:
    return DatasetRecord(
        role=role,
        identifier="11",
        uuid=f"uuid-{role}",
        n_frames=n_frames,
        formulas={"H16O8": n_frames},
        content_hash=f"{role}-{start}-{n_frames}".ljust(20, "0"),
        levels={LEVEL.key: {"level": LEVEL.to_dict(), "counts": {"energy": n_frames, "forces": n_frames, "stress": 0}}},
        frame_hashes=tuple(str(index) for index in range(start, start + n_frames)),
        made_by="split <9>",
    )


def foundation(licence: str = "MIT") -> ModelHistory:
    return ModelHistory(
        name="Model 3 (mace-off23-small)",
        passport=passport("f", levels={"Default": "wb97m-d3/spice"}),
        origin="the official release at https://example.org/off.model",
        licence=licence,
        references=("Kovács et al., arXiv:2312.15211",),
        uuid="uuid-foundation",
    )


def trained(
    *, licence: str = "MIT", lr: float = 1e-3, n_train: int = 4, errors: dict[str, Any] | None = None, **fields: Any
) -> ModelHistory:
    found = {"energy_rmse_meV_per_atom": 1.5, "n_frames": 2, "forces_by_element": {"O": {"rmse_meV_A": 40.0}}}
    return ModelHistory(
        name="ice",
        passport=passport(
            levels={"Default": LEVEL.key},
            parent_sha256="f" * 64,
            seeds=[7],
            errors={"Default": {"valid": found if errors is None else errors}},
            **fields,
        ),
        origin="made by MaceTrainCalculation (20)",
        process=ProcessRecord(
            name="MaceTrainCalculation",
            identifier="20",
            uuid="uuid-process",
            entry_point="aiida.calculations:mlfinetune.mace_train",
            parts_of=("TrainingWorkChain <18>, uuid-chain",),
            versions={"aiida-core": "2.9.4", "aiida-mlfinetune": "0.1.0", "mace-torch": "0.3.16"},
            code="python@localhost",
            date="2026-11-21",
            outcome="finished",
            epochs=5,
        ),
        settings={"parameters": {"mode": "naive", "lr": lr, "seed": 7}, "level": LEVEL.key, "split": {"seed": 3}},
        datasets=(dataset("train", n_train), dataset("valid", 2, 100)),
        parents=(("foundation", foundation(licence)),),
        uuid="uuid-model",
    )
