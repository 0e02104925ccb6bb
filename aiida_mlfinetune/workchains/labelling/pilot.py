"""A pilot: a few frames of a set, labelled as the whole set would be, to learn what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.calculations.ase_label import AseLabelCalculation
from aiida_mlfinetune.calculations.functions.dataset import subset
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.common.resources import mpi_processes
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.parsers.raw.json_lines import read_json_lines
from aiida_mlfinetune.parsers.raw.timings import ase_timing, cp2k_timing, vasp_timing
from aiida_mlfinetune.science.plans.labelling import Composition, Cost, Timing, all_costs, cost
from aiida_mlfinetune.workchains.labelling.chain import LabellingWorkChain
from aiida_mlfinetune.workchains.labelling.engines import ENGINES
from aiida_mlfinetune.workchains.labelling.vasp import VaspLabelWorkChain
from aiida_mlfinetune.workchains.protocols import load_yaml
from aiida_mlfinetune.workchains.protocols.vasp_levels import available_vasp_levels

COSTS_FILENAME = "level_costs.yaml"


@dataclass(frozen=True)
class Labelling:
    """How a set is to be labelled.

    Attributes:
        code: of the level's engine.
        level: name of a level of any engine, VASP included, or a whole specification.
        protocol: demo, fast, balanced or kaur2025; None for the default one.
        max_concurrent: jobs at a time.
        options: scheduler options of a job.
        model: the model behind an ASE calculator that reads one.
    """

    code: orm.AbstractCode
    level: str | Mapping[str, Any]
    protocol: str | None = None
    max_concurrent: int = 2
    options: Mapping[str, Any] | None = None
    model: MaceModelData | None = None

    @property
    def by_vasp(self) -> bool:
        """Whether VASP does it, one job a frame."""
        if isinstance(self.level, str):
            return self.level in available_vasp_levels()
        return self.level.get("engine") == "vasp"

    def builder(self, dataset: DatasetData, frames_per_job: int) -> ProcessBuilder:
        """Return the builder that labels a dataset.

        Raises:
            StudyError: an unknown level, code, or protocol.
        """
        try:
            return self._builder(dataset, frames_per_job)
        except MlFinetuneError:
            raise
        except ValueError as error:  # of the validator of a port, by AiiDA
            raise StudyError(str(error).removeprefix("invalid attribute value ")) from error

    def _builder(self, dataset: DatasetData, frames_per_job: int) -> ProcessBuilder:
        if self.by_vasp:
            return VaspLabelWorkChain.get_builder_from_protocol(
                self.code,
                dataset,
                self.level,
                self.protocol,
                {"max_concurrent": self.max_concurrent},
                self.options,
            )
        return LabellingWorkChain.get_builder_from_protocol(
            self.code,
            dataset,
            self.level,
            self.protocol,
            {"frames_per_job": frames_per_job, "max_concurrent": self.max_concurrent},
            self.options,
            model=self.model,
        )

    def check_level(self) -> None:
        """Check the name of the level, if it is one.

        Raises:
            StudyError: unknown; the message lists those there are.
        """
        known = [name for engine in ENGINES.values() for name in engine.available()] + list(available_vasp_levels())
        if isinstance(self.level, str) and self.level not in known:
            raise StudyError(f"unknown level {self.level!r}: choose from {list(dict.fromkeys(known))}")


def pilot_builder(labelling: Labelling, dataset: DatasetData, groups: Sequence[Composition]) -> ProcessBuilder:
    """Return the builder of a pilot on the pilot frames of ``groups`` of a stored dataset.

    What of the level depends on the cells is settled by the whole dataset, so that the labels are of the same level.

    Raises:
        StudyError: what the builder of the whole labelling refuses.
    """
    level = labelling.builder(dataset, 1).level.get_dict()
    indices = [int(index) for group in groups for index in group.pilot]
    return replace(labelling, level=level).builder(subset(dataset, orm.List(indices)), len(indices))


def level_notes(level: str) -> list[str]:
    """Return what a level that ships with the package was measured to cost, line by line, if it was."""
    notes: list[str] = load_yaml(COSTS_FILENAME).get(level, [])
    return notes


def mixes_compositions(level: Mapping[str, Any]) -> bool:
    """Return whether one job takes frames of several compositions."""
    return level["engine"] in ENGINES and ENGINES[level["engine"]].mixes_compositions


def pilot_costs(pilot: orm.ProcessNode, dataset: DatasetData, groups: Sequence[Composition]) -> tuple[list[Cost], int]:
    """Return the cost of a frame of each composition of ``dataset``, and the cores of a job, from a pilot that ended.

    Raises:
        StudyError: the pilot tells nothing of frames of this set, or nothing of times.
        FramesError: it tells nothing of the smallest or the largest composition.
    """
    hashes, all_volumes = dataset.frames.content_hashes(), dataset.frames.volumes
    member = {hashes[index]: group.name for group in groups for index in group.order}
    volume = {hashes[index]: float(all_volumes[index]) for group in groups for index in group.order}
    timings: dict[str, list[Timing]] = {}
    volumes: dict[str, list[float]] = {}
    silent: list[int] = []
    for job, digests, timing in _timed_jobs(pilot):
        if timing is None:
            silent.append(job.pk)
            continue
        for name, own, part in _by_composition(digests, timing, member):
            timings.setdefault(name, []).append(part)
            volumes.setdefault(name, []).extend(volume[digest] for digest in own)
    if silent and not timings:
        raise StudyError(
            f"the jobs {silent} of the pilot do not tell what their frames cost: they did not come to their end, or "
            f"their program does not write it. `verdi process report {pilot.pk}` tells more"
        )
    if not timings:
        raise StudyError(f"process {pilot.pk} labelled no frame of dataset {dataset.pk}: run a pilot on this set")
    known = {
        group.name: cost(timings[group.name], group, volumes[group.name]) for group in groups if group.name in timings
    }
    cores = max(timing.cores for own in timings.values() for timing in own)
    return all_costs(groups, known), cores


def _by_composition(
    digests: Sequence[str], timing: Timing, member: Mapping[str, str]
) -> Iterator[tuple[str, list[str], Timing]]:
    """Yield the parts of a job that are of one composition each; frames that ``member`` does not know are left out."""
    seconds = [timing.first_s, *timing.next_s]
    names = list(dict.fromkeys(member[digest] for digest in digests if digest in member))
    for name in names:
        own = [index for index, digest in enumerate(digests) if member.get(digest) == name]
        part = timing
        if len(own) < len(digests):
            # A job of several compositions carries nothing over: which of its frames comes first does not matter.
            part = replace(timing, first_s=seconds[own[0]], next_s=tuple(seconds[index] for index in own[1:]))
        yield name, [digests[index] for index in own], part


def _timed_jobs(pilot: orm.ProcessNode) -> Iterator[tuple[orm.CalcJobNode, list[str], Timing | None]]:
    """Yield the jobs of a labelling with the content hashes of their frames and what these cost.

    Jobs on a rung of the ladder are left out: few frames need it.
    """
    for node in pilot.called_descendants:
        if not isinstance(node, orm.CalcJobNode) or "convergence" in node.inputs:
            continue
        if node.process_class is AseLabelCalculation:
            hashes = node.inputs.dataset.frames.content_hashes()
            text = _retrieved(node, AseLabelCalculation.LABELS_FILENAME)
            timing = ase_timing(read_json_lines(text)[1:]) if node.is_finished_ok else None
            yield node, hashes, timing
        elif "dataset" in node.inputs:
            hashes = node.inputs.dataset.frames.content_hashes()
            yield node, hashes, cp2k_timing(_retrieved(node, node.get_option("output_filename")), len(hashes))
    for caller in (pilot, *pilot.called_descendants):
        if isinstance(caller, orm.WorkChainNode) and caller.process_class is VaspLabelWorkChain:
            yield from _vasp_jobs(caller)


def _vasp_jobs(chain: orm.WorkChainNode) -> Iterator[tuple[orm.CalcJobNode, list[str], Timing | None]]:
    """Yield the runs of VASP of a labelling; all runs that a frame took count to it."""
    hashes = chain.inputs.dataset.frames.content_hashes()
    for link in chain.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all():
        index = int(link.link_label.rpartition("_")[2])
        jobs = [job for job in link.node.called_descendants if isinstance(job, orm.CalcJobNode)]
        found = [
            vasp_timing(job.outputs.misc.get_dict(), _processes(job)) if "misc" in job.outputs else None for job in jobs
        ]
        told = [timing for timing in found if timing is not None]
        whole = None
        if told and len(told) == len(found):
            whole = replace(told[-1], first_s=sum(timing.first_s for timing in told))
        if jobs:
            yield jobs[-1], [hashes[index]], whole


def _processes(job: orm.CalcJobNode) -> int:
    return mpi_processes(job.get_option("resources") or {}) if job.get_option("withmpi") else 1


def _retrieved(job: orm.CalcJobNode, name: str) -> str:
    files = job.outputs.retrieved.base.repository if "retrieved" in job.outputs else None
    if files is None or name not in files.list_object_names():
        return ""
    text: str = files.get_object_content(name)
    return text
