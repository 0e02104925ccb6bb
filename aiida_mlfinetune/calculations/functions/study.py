"""What a study of several polymorphs needs beside the work chains that it calls, as calcfunctions."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.ranking import rank

RANKED_BY = ("enthalpy_crystal", "sublimation_enthalpy")


@calcfunction
def shared_frames(dataset: DatasetData, **parts: DatasetData) -> DatasetData:
    """Return the frames of ``dataset`` that any of ``parts`` holds too, found by content hash, as a view.

    Raises:
        FramesError: there are none.
    """
    wanted = {digest for name in sorted(parts) for digest in parts[name].frames.content_hashes()}
    indices = [index for index, digest in enumerate(dataset.frames.content_hashes()) if digest in wanted]
    if not indices:
        raise FramesError("none of the frames asked for has a label")
    return DatasetData.subset(dataset, indices)


@calcfunction
def list_failures(failed: orm.Dict) -> orm.Dict:
    """Return what failed, by what it is called, with the reason."""
    return orm.Dict(failed.get_dict())


@calcfunction
def rank_polymorphs(**enthalpies: ObservableData) -> ObservableData:
    """Rank polymorphs by their enthalpies, or by their sublimation enthalpies where their gases were run apart.

    Each input is called after its polymorph: ``enthalpy_crystal`` of one model and so one energy scale, or
    ``sublimation_enthalpy``. The value is by how much the first is more stable than the second, in kJ/mol.

    Arrays, in the order of ``details['order']``: ``enthalpy_kJmol`` relative to the most stable, its
    ``enthalpy_error_kJmol``, and for pairs ``difference_kJmol``, ``sigma``, ``probability``.

    Raises:
        MlFinetuneError: fewer than two, observables of different kinds, states or molecules, or one without an error.
    """
    if len(enthalpies) < 2:
        raise MlFinetuneError(f"an order needs at least two polymorphs, got {sorted(enthalpies)}")
    kinds = {one.name for one in enthalpies.values()}
    if len(kinds) > 1 or not kinds <= set(RANKED_BY):
        raise MlFinetuneError(f"polymorphs are ranked by one of {list(RANKED_BY)}, got {sorted(kinds)}")
    for what, seen in (
        ("temperatures", {one.conditions.get("temperature_K") for one in enthalpies.values()}),
        ("levels", {one.conditions.get("level") for one in enthalpies.values()}),
        ("molecules", {one.details.get("formula") for one in enthalpies.values()}),
    ):
        if len(seen) > 1:
            raise MlFinetuneError(f"polymorphs with different {what} cannot be ranked: {sorted(map(str, seen))}")
    kind = kinds.pop()
    sign = 1.0 if kind == "enthalpy_crystal" else -1.0
    doubtful = [name for name, one in enthalpies.items() if not one.details.get("reliable", True)]
    ranking = rank({name: Estimate(sign * one.value, one.error) for name, one in enthalpies.items()}, doubtful)
    independent = [one.n_independent for one in enthalpies.values() if one.n_independent is not None]
    return ObservableData(
        name="polymorph_ranking",
        value=float(ranking.difference[0, 1]),
        error=float(ranking.error[1]),
        unit="kJ/mol",
        conditions=dict(enthalpies[ranking.names[0]].conditions),
        method=f"order of {kind.replace('_', ' ')}, without entropy; errors of independent runs"
        + ("; the gas drops out" if kind == "enthalpy_crystal" else ""),
        n_independent=min(independent) if independent else None,
        warnings=list(dict.fromkeys(f"{name}: {text}" for name in ranking.names for text in enthalpies[name].warnings)),
        arrays={
            "enthalpy_kJmol": ranking.enthalpy,
            "enthalpy_error_kJmol": ranking.error,
            "difference_kJmol": ranking.difference,
            "sigma": ranking.sigma,
            "probability": ranking.probability,
        },
        details={"order": list(ranking.names), "ranked_by": kind, "sentences": list(ranking.sentences)},
    )
