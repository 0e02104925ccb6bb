"""The potentials (POTCAR) of a VASP level: found and checked before anything is submitted.

aiida-vasp keeps the licensed files as ``PotcarFileData``, which no process takes as input and no link leads to. Inputs
are ``PotcarData``: name, title and hash only. The file is looked up by the hash when POTCAR is written to the job's
folder, and is excluded from the repository.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiida import orm

FUNCTIONALS = {"LDA": "Perdew-Zunger81"}
"""Names of functionals that differ from what aiida-vasp calls them, after LEXCH."""
UPLOAD = "`aiida-vasp potcar uploadfamily --path <folder or tar file> --name {name} --description <text>`"


def potentials_problem(spec: Mapping[str, Any], elements: Iterable[str]) -> str | None:
    """Return what is wrong with the potentials of a level for these elements, or None.

    Found are a family that is not there, an element that the level names no potential for, a potential that is not in
    the family, is of another element, was made for another functional than the level says, or whose file is not in this
    profile (as after an import of somebody's archive).
    """
    from aiida.common.exceptions import NotExistent
    from aiida_vasp.data.potcar import PotcarData, PotcarFileData

    potentials = spec["potentials"]
    family, mapping, wanted = potentials["family"], potentials["mapping"], potentials["functional"]
    upload = UPLOAD.format(name=family)
    group = PotcarData.get_potcar_group(family)
    if group is None:
        return (
            f"there is no family of potentials {family!r}: make it with {upload}, or name one that is there as "
            f"`potentials.family` of the level ({_families()})"
        )
    for element in elements:
        if element not in mapping:
            return (
                f"level {spec['key']!r} names no potential for {element}: add it to `potentials.mapping`, such as "
                f"{{{element}: {element}}} or {{{element}: {element}_h}}"
            )
        try:
            potcar = PotcarData.find(family=family, full_name=mapping[element])[0]
        except NotExistent:
            there = ", ".join(sorted(node.full_name for node in group.nodes if node.element == element))
            return (
                f"family {family!r} has no potential {mapping[element]} for {element}"
                + (f", only {there}" if there else "")
                + f": upload it with {upload}, or choose another one in `potentials.mapping`"
            )
        if potcar.element != element:
            return (
                f"potential {mapping[element]} of family {family!r} is for {potcar.element}, not for {element} (its "
                f"title is {potcar.title!r}): correct `potentials.mapping`"
            )
        made_for = functional_of(potcar)
        if made_for != FUNCTIONALS.get(wanted, wanted):
            return (
                f"potential {mapping[element]} of family {family!r} was made for {made_for} (its title is "
                f"{potcar.title!r}), but level {spec['key']!r} asks for {wanted}: name a family for {wanted} as "
                "`potentials.family`"
            )
        if not PotcarFileData.exists(sha512=potcar.sha512):
            return (
                f"the file of potential {mapping[element]} of family {family!r} is not in this profile, only its name "
                f"and hash: upload it with {upload}"
            )
    return None


def functional_of(potcar: orm.Data) -> str | None:
    """Return the functional that a potential was made for, as aiida-vasp reads it from LEXCH."""
    attributes = potcar.base.attributes
    # aiida-vasp 5.1 stores the attribute without its first letter
    return attributes.get("functional", None) or attributes.get("unctional", None)


def _families() -> str:
    from aiida_vasp.data.potcar import PotcarGroup

    labels = [label for (label,) in orm.QueryBuilder().append(PotcarGroup, project="label").all()]
    return f"there are {sorted(labels)}" if labels else "there is none"
