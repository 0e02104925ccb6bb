"""Reading the YAML of a study: what is repeated, misspelt or of the wrong kind is an error that names it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from aiida_mlfinetune.common.errors import StudyError

__all__ = ("mapping_of", "number_of", "read_yaml", "refuse_unknown", "relative_crystal", "text_of")


class _Loader(yaml.SafeLoader):
    """Refuses keys that are there twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the name {key!r} is there twice", key_node.start_mark
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the keys and values of a study file.

    Raises:
        StudyError: no YAML, no mapping, or a key that is there twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise StudyError(f"{path} must hold keys and values, such as `crystal: ice.cif`")
    return content


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise ``StudyError`` if ``given`` holds a key that is not ``known``; the message suggests the nearest one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
            raise StudyError(f"{where}: unknown key {key!r}; {hint}")


def relative_crystal(value: str, path: Path) -> Path | str:
    """Return the file with a crystal, or the name of one that comes with the package.

    Raises:
        StudyError: there is neither.
    """
    from aiida_mlfinetune.science.crystals.crystals import CRYSTALS

    file = path.parent / value
    if file.is_file():
        return file
    if value in CRYSTALS:
        return value
    raise StudyError(
        f"{path}: there is no file {file} (a path is relative to the study file), and no crystal {value!r} in the "
        f"package, which has {', '.join(CRYSTALS)}"
    )


def text_of(content: Mapping[str, Any], key: str, path: Path) -> str | None:
    """Return a text or number as a text, None where it is missing."""
    value = content.get(key)
    if value is not None and not isinstance(value, str | int):
        raise StudyError(f"{path}: {key} must be a text, got {value!r}")
    return None if value is None else str(value)


def number_of(content: Mapping[str, Any], key: str, path: Path) -> float | None:
    """Return a number, None where it is missing."""
    value = content.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise StudyError(f"{path}: {key} must be a number, got {value!r}")
    return None if value is None else float(value)


def mapping_of(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """Return keys and values, none where they are missing."""
    value = content.get(key) or {}
    if not isinstance(value, Mapping):
        raise StudyError(f"{path}: {key} must hold keys and values, got {value!r}")
    return value
