"""What a model is and how it was made, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aiida_mlfinetune.common.errors import ModelError


@dataclass(frozen=True)
class Passport:
    """The passport of a MACE model file.

    Attributes:
        sha256: of the file.
        mace_version: version of mace-torch that wrote it.
        architecture: class name and what defines the network's shape.
        r_max: cutoff radius in angstrom.
        elements: chemical symbols that the model knows.
        heads: names of its heads, in the file's order.
        e0s: atomic reference energies in eV, by head and element, read from the file.
        dtype: ``float32`` or ``float64``.
        n_parameters: number of trainable weights.
        levels: level of theory of each head.
        parent_sha256: of the foundation it started from, if any.
        seeds: random seeds of the training.
        errors: final errors by head and set (``valid``, ``test``).
        settings: what else defines the training.
    """

    sha256: str
    mace_version: str
    r_max: float
    elements: list[str]
    heads: list[str]
    e0s: Mapping[str, Mapping[str, float]]
    dtype: str
    n_parameters: int
    architecture: Mapping[str, Any] = field(default_factory=dict)
    levels: Mapping[str, str] = field(default_factory=dict)
    parent_sha256: str | None = None
    seeds: list[int] = field(default_factory=list)
    errors: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what others rely on.

        Raises:
            ModelError: a checksum that is none, or heads without reference energies for every element.
        """
        if len(self.sha256) != 64:
            raise ModelError(f"{self.sha256!r} is not a sha256 checksum")
        for head in self.heads:
            missing = set(self.elements) - set(self.e0s.get(head, {}))
            if missing:
                raise ModelError(f"head {head!r} has no reference energy for {sorted(missing)}")
        if unknown := set(self.levels) - set(self.heads):
            raise ModelError(f"levels are declared for heads {sorted(unknown)} that the model lacks: {self.heads}")

    def to_dict(self) -> dict[str, Any]:
        """Return the passport as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Passport:
        """Build a passport from what ``to_dict`` returned; unknown names are refused."""
        if unknown := set(values) - set(cls.__dataclass_fields__):
            raise ModelError(f"unknown entries in a passport: {sorted(unknown)}")
        return cls(**values)
