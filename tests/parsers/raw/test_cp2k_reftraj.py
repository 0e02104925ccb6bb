"""Per-frame results from the standard output of CP2K."""

import numpy as np
import pytest

from aiida_mlfinetune.common.units import BAR_EV_A3, HARTREE_BOHR_EV_ANGSTROM, HARTREE_EV
from aiida_mlfinetune.parsers.raw.cp2k_reftraj import parse_reftraj

LATER_RELEASE = """
 CP2K| version string:                                       CP2K version 2025.1
  *** SCF run converged in     9 steps ***
 ENERGY| Total FORCE_EVAL ( QS ) energy [hartree]             -3.701430592573918

 FORCES| Atomic forces [hartree/bohr]
 FORCES|   Atom     x               y               z               |f|
 FORCES|      1 -1.00000000E-01  2.00000000E-01 -3.00000000E-01   3.74165739E-01
 FORCES|      2  4.00000000E-01 -5.00000000E-01  6.00000000E-01   8.77496439E-01
 FORCES| Sum     3.00000000E-01 -3.00000000E-01  3.00000000E-01
 FORCES| Total atomic force  5.19615242E-01

 STRESS| Analytical stress tensor [bar]
 STRESS|                        x                   y                   z
 STRESS|      x        6.08184838865E+03  -4.15401392519E+03  -4.15378539843E+03
 STRESS|      y       -4.15401392519E+03   6.07947827181E+03  -4.15350217683E+03
 STRESS|      z       -4.15378539843E+03  -4.15350217683E+03   6.07756249544E+03
 STRESS| 1/3 Trace                                             6.07962971863E+03
"""


def test_the_layout_of_later_releases():
    """Forces behind ``FORCES|``, stress in bar (its sign is turned to ASE's)."""
    run = parse_reftraj(LATER_RELEASE, 2)
    (frame,) = run.frames
    assert run.stdout.version == "2025.1"
    assert frame.energy == pytest.approx(-3.701430592573918 * HARTREE_EV, rel=1e-15)
    np.testing.assert_allclose(
        frame.forces, np.array([[-0.1, 0.2, -0.3], [0.4, -0.5, 0.6]]) * HARTREE_BOHR_EV_ANGSTROM, rtol=1e-14
    )
    assert frame.stress[0, 1] == pytest.approx(4154.01392519 * BAR_EV_A3, rel=1e-14)
    assert (frame.converged, frame.scf_steps) == (True, 9)
    assert not run.stdout.ended


def test_a_table_of_other_atoms_is_no_result():
    assert parse_reftraj(LATER_RELEASE, 3).frames[0].forces is None


def test_an_empty_output():
    run = parse_reftraj("", 3)
    assert run.frames == ()
    assert run.seconds == 0
    assert not run.stopped_unconverged
