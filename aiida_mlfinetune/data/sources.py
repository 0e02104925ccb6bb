"""The runs that the frames of a dataset were taken from."""

from __future__ import annotations

from aiida import orm
from aiida.common.exceptions import NotExistent

from aiida_mlfinetune.data.dataset import DatasetData

PROPERTIES = "properties"
NEEDED = ("step", "potential_energy_eV")


def source_runs(dataset: DatasetData) -> dict[str, orm.ArrayData]:
    """Return the ``properties`` of the runs that made the frames, as far as this database holds them.

    They are called ``run_<number>`` in the order of the dataset's sources.
    """
    found: dict[str, orm.ArrayData] = {}
    for number, uuid in enumerate(dataset.frame_sources):
        try:
            node = orm.load_node(uuid=uuid) if uuid else None
        except (NotExistent, ValueError):
            continue
        if not isinstance(node, orm.ProcessNode) or PROPERTIES not in node.outputs:
            continue
        properties = node.outputs[PROPERTIES]
        if isinstance(properties, orm.ArrayData) and set(NEEDED) <= set(properties.get_arraynames()):
            found[f"run_{number:02d}"] = properties
    return found
