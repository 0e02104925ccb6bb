"""The average of a whole run, moved to the reference level by what reweighting says of some of its frames."""

from __future__ import annotations

import math

from aiida_mlfinetune.science.averages.thermodynamics import Estimate


def move_to_reference(run: Estimate, shift: Estimate) -> Estimate:
    r"""Return the average at the reference level from that of a run and the shift of its labelled frames.

    .. math:: \langle A \rangle_\mathrm{ref} = \langle A \rangle + \langle A \rangle_w - \langle A \rangle_s

    The first is the average over the whole run; weighted and plain average over the labelled frames s give the shift.
    It is an unbiased use of the shift as a control variate: the fluctuations of the run cancel in it, so that its error
    is smaller than that of :math:`\langle A \rangle_w` where the potentials are alike, and the whole run, not only its
    labelled frames, tells the rest. The errors are added in quadrature; for Gaussian tests with poor overlap that is
    right or up to a quarter too large.

    Args:
        run: average over the whole run and its standard error.
        shift: weighted - plain average over the labelled frames and its standard error, in the same unit.
    """
    return Estimate(run.value + shift.value, math.hypot(run.error, shift.error))
