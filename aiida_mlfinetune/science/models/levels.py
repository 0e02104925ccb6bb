"""The level of theory that a model's predictions are labels of."""

from __future__ import annotations

from collections.abc import Mapping

from aiida_mlfinetune.science.datasets.levels import Level

KEY_SUFFIX = "/mace"


def model_level_key(sha256: str) -> str:
    """Return the key of a model's level: the start of its checksum and ``/mace``."""
    return sha256[:8] + KEY_SUFFIX


def model_level(
    sha256: str,
    head: str,
    dtype: str,
    code_version: str = "",
    key: str | None = None,
    baseline: Mapping[str, str] | None = None,
) -> Level:
    """Return the level of the labels that a model predicts.

    Args:
        sha256: of the model file.
        head: that predicts.
        dtype: of the evaluation, ``float32`` or ``float64``.
        code_version: of mace-torch.
        key: name of the level; by default ``model_level_key``.
        baseline: ``sha256`` and ``head`` of the model whose predictions were added, if any.
    """
    settings = {"sha256": sha256, "head": head, "dtype": dtype}
    plus = "" if baseline is None else f" plus {baseline['sha256'][:8]}"
    return Level(
        key=key or model_level_key(sha256),
        engine="mace",
        method=f"MACE model {sha256[:8]}{plus}",
        code="mace-torch",
        code_version=code_version,
        settings=settings if baseline is None else {**settings, "baseline": dict(baseline)},
    )
