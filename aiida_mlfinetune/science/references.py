"""What to cite for a level of theory and for the programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ("level_references", "program_references")

PROGRAMS = (
    "AiiDA: Huber et al., Sci. Data 7, 300 (2020), doi:10.1038/s41597-020-00638-4",
    "AiiDA: Uhrin et al., Comput. Mater. Sci. 187, 110086 (2021), doi:10.1016/j.commatsci.2020.110086",
    "MACE: Batatia et al., NeurIPS 35, 11423 (2022), arXiv:2206.07697",
    "MACE: Batatia et al., The Design Space of E(3)-Equivariant Atom-Centered Interatomic Potentials, arXiv:2205.06643",
)
METHODS = (
    (r"gfn1-xtb", "GFN1-xTB: Grimme et al., J. Chem. Theory Comput. 13, 1989 (2017), doi:10.1021/acs.jctc.7b00118"),
    (r"gfn2-xtb", "GFN2-xTB: Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176"),
    (r"revpbe", "revPBE: Zhang, Yang, Phys. Rev. Lett. 80, 890 (1998), doi:10.1103/PhysRevLett.80.890"),
    (r"(?<!rev)pbe", "PBE: Perdew et al., Phys. Rev. Lett. 77, 3865 (1996), doi:10.1103/PhysRevLett.77.3865"),
    (r"pbe0", "PBE0: Adamo, Barone, J. Chem. Phys. 110, 6158 (1999), doi:10.1063/1.478522"),
    (r"-d3", "D3: Grimme et al., J. Chem. Phys. 132, 154104 (2010), doi:10.1063/1.3382344"),
    (r"d3\(bj\)", "D3(BJ): Grimme et al., J. Comput. Chem. 32, 1456 (2011), doi:10.1002/jcc.21759"),
    (r"\brpa\b", "RPA in CP2K: Wilhelm et al., J. Chem. Theory Comput. 12, 5851 (2016), doi:10.1021/acs.jctc.6b00840"),
)
"""Pattern, sought in key and method of a level in small letters, and what to cite where it is found."""
BASES = (
    (r"\bcp2k\b", "CP2K: Kühne et al., J. Chem. Phys. 152, 194103 (2020), doi:10.1063/5.0007045"),
    (r"\bvasp\b", "VASP: Kresse, Furthmüller, Phys. Rev. B 54, 11169 (1996), doi:10.1103/PhysRevB.54.11169"),
    (r"\bpaw\b", "PAW in VASP: Kresse, Joubert, Phys. Rev. B 59, 1758 (1999), doi:10.1103/PhysRevB.59.1758"),
    (r"molopt", "MOLOPT basis sets: VandeVondele, Hutter, J. Chem. Phys. 127, 114105 (2007), doi:10.1063/1.2770708"),
    (r"gth-", "GTH potentials: Goedecker et al., Phys. Rev. B 54, 1703 (1996), doi:10.1103/PhysRevB.54.1703"),
)
"""The same for patterns that are sought in key, engine and basis."""


def program_references() -> tuple[str, ...]:
    """Return what to cite for AiiDA and MACE."""
    return PROGRAMS


def level_references(levels: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what to cite for levels of theory, given as ``Level.to_dict`` returns them."""
    known = list(levels)
    found = []
    for patterns, names in ((BASES, ("key", "engine", "basis")), (METHODS, ("key", "method"))):
        texts = [" ".join(str(level.get(name, "")) for name in names).lower() for level in known]
        found += [citation for pattern, citation in patterns if any(re.search(pattern, text) for text in texts)]
    return tuple(found)
