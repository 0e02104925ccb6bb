"""Protocols: named sets of inputs as YAML deltas, and what turns them and a user's overrides into inputs."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from importlib import resources
from typing import Any, ClassVar

import yaml

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError


class ProtocolMixin:
    """Gives a work chain ``get_protocol_inputs``, read from ``protocols/<_PROTOCOL_FILE>``.

    The file holds ``default_protocol``, ``default_inputs``, ``protocols`` (name -> ``description`` and deltas to the
    default inputs) and, optionally, ``free`` (dotted paths below which any key is allowed, such as scheduler options).
    """

    _PROTOCOL_FILE: ClassVar[str]

    @classmethod
    def get_default_protocol(cls) -> str:
        """Return the name of the protocol that is used when none is named."""
        return load_yaml(cls._PROTOCOL_FILE)["default_protocol"]

    @classmethod
    def get_available_protocols(cls) -> dict[str, str]:
        """Return the description of every protocol by its name."""
        return {name: value["description"] for name, value in load_yaml(cls._PROTOCOL_FILE)["protocols"].items()}

    @classmethod
    def get_protocol_inputs(
        cls, protocol: str | None = None, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the inputs of a protocol with a user's overrides applied.

        Raises:
            StudyError: an unknown protocol, or an override of an input that there is not.
        """
        content = load_yaml(cls._PROTOCOL_FILE)
        name = protocol or content["default_protocol"]
        if name not in content["protocols"]:
            raise StudyError(f"unknown protocol {name!r} of {cls.__name__}: choose from {list(content['protocols'])}")
        delta = {key: value for key, value in content["protocols"][name].items() if key != "description"}
        free = set(content.get("free", []))
        inputs = merge(content["default_inputs"], delta, free, f"protocol {name!r}")
        return merge(inputs, overrides or {}, free, f"overrides of {cls.__name__}")


def inputs_of(builder: Any, *without: str) -> dict[str, Any]:
    """Return the inputs of a builder but those of ``without``, to be a namespace of another builder."""
    values = builder._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
    return {name: value for name, value in values.items() if name not in without}


def merge(
    base: Mapping[str, Any], delta: Mapping[str, Any], free: set[str], where: str, path: str = ""
) -> dict[str, Any]:
    """Return ``base`` with ``delta`` laid over it, recursively; a key that ``base`` lacks is an error.

    Raises:
        StudyError: an unknown key outside the dotted paths in ``free``.
    """
    merged = deepcopy(dict(base))
    for key, value in delta.items():
        own = f"{path}.{key}" if path else str(key)
        if key not in merged and path not in free:
            raise StudyError(f"unknown input {own!r} in the {where}: known here are {sorted(map(str, merged))}")
        inner = free | {own} if path in free else free
        if isinstance(merged.get(key), Mapping) and isinstance(value, Mapping):
            merged[key] = merge(merged[key], value, inner, where, own)
        else:
            merged[key] = deepcopy(value)
    return merged


def with_state(
    parameters: Mapping[str, Any], overrides: Mapping[str, Any] | None, state: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the parameters of a run with the state that a caller asks for laid over them, where it is not None.

    Args:
        parameters: of the protocol, with ``overrides`` laid over it.
        overrides: what was given by the user among them.
        state: ensemble, temperature_K and pressure_bar of the caller.

    Raises:
        StudyError: overrides that say something else, of which one would be ignored.
    """
    asked = {name: value for name, value in state.items() if value is not None}
    for name, value in asked.items():
        own = (overrides or {}).get(name)
        if own is not None and own != value:
            told = getattr(value, "value", value)  # of an Ensemble
            raise StudyError(f"{name} is given twice, as {told} and, in the overrides, as {own}: give it once")
    return {**parameters, **asked}


def unused_pressure(ensemble: Ensemble, *pressures: float | None) -> str | None:
    """Say so if one of the pressures that were asked for on a crystal, in bar, is not None, but no barostat sets it.

    No error, since a pressure is given once for all runs of a chain, and the protocols name one.
    """
    given = next((pressure for pressure in pressures if pressure is not None), None)
    if given is None or ensemble.has_barostat:
        return None
    return (
        f"pressure_bar is {given:g}, but ensemble {ensemble.value!r} has no barostat: the cell stays as it is, "
        "whatever its pressure"
    )


def load_yaml(name: str) -> dict[str, Any]:
    """Return the content of the YAML file ``name`` of this package."""
    return deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> dict[str, Any]:
    return yaml.safe_load((resources.files(__package__) / name).read_text(encoding="utf-8"))
