"""The rooms of the package import only from those before them, and the pure ones know nothing of AiiDA."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aiida_mlfinetune

ROOT = Path(aiida_mlfinetune.__file__).parent
PACKAGE = "aiida_mlfinetune"
ORDER = (
    "common",
    "storage",
    "science",
    "pure",
    "programs",
    "data",
    "calculations",
    "parsers",
    "workchains",
    "report",
    "cli",
)
WINGS = (
    "references",
    "datasets",
    "crystals",
    "models",
    "averages",
    "observables",
    "dynamics",
    "training",
    "plans",
    "conclusions",
)
AIIDA_FREE = ("common", "science", "parsers/raw", "plotting")
PROGRAM_LIBRARIES = {"ase", "e3nn", "ipi", "mace", "matscipy", "numpy", "scipy", "tblite", "torch", "yaml"}


def modules(folder: str = "") -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"no module in {folder}"
    return found


def room(parts: tuple[str, ...]) -> str | None:
    """Return the room of a module, given by the parts of its name below the package; None for the package itself."""
    if not parts or parts[0] == "__version__":
        return None
    if parts[0] == "plotting" or parts[:2] == ("parsers", "raw"):
        return "pure"
    return parts[0]


def imports(path: Path, *, at_import_only: bool = False) -> set[str]:
    """Return the full names that a module imports, also inside functions unless ``at_import_only``."""
    names = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif at_import_only and (isinstance(node, ast.FunctionDef | ast.Lambda) or is_type_checking(node)):
            continue
        pending.extend(ast.iter_child_nodes(node))
    return names


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_up_the_order(path: Path):
    own = room(path.relative_to(ROOT).with_suffix("").parts)
    if own in (None, "__init__"):
        return
    for name in imports(path):
        if name.split(".")[0] != PACKAGE:
            continue
        other = room(tuple(name.split(".")[1:]))
        if other is None or other == own:
            continue
        assert own in ORDER, f"{path.relative_to(ROOT)} imports {name}, but stands outside the rooms"
        assert other in ORDER, f"{path.relative_to(ROOT)} imports {name}, which is no room"
        assert ORDER.index(other) < ORDER.index(own), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", modules("science"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_within_science_point_up_the_wings(path: Path):
    own = path.relative_to(ROOT / "science").with_suffix("").parts[0]
    if own == "__init__":
        return
    for name in imports(path):
        package, _, other = name.partition(".science.")
        if package == PACKAGE and (wing := other.split(".")[0]) != own:
            assert WINGS.index(wing) < WINGS.index(own), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", AIIDA_FREE)
def test_pure_rooms_do_not_import_aiida(folder: str):
    for path in modules(folder):
        foreign = [name for name in imports(path) if name.split(".")[0] in ("aiida", "aiida_cp2k", "aiida_vasp")]
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_command_line_imports_aiida_inside_functions_only():
    for path in modules("cli"):
        eager = [name for name in imports(path, at_import_only=True) if name.split(".")[0] == "aiida"]
        assert not eager, f"{path.relative_to(ROOT)} imports {eager} when it is imported"
        for name in imports(path, at_import_only=True):
            parts = tuple(name.split(".")[1:])
            if name.split(".")[0] == PACKAGE and room(parts) not in (None, "cli", "common", "science", "pure"):
                pytest.fail(f"{path.relative_to(ROOT)} imports {name}, and so aiida, when it is imported")


def test_programs_stand_alone():
    import sys

    for path in modules("programs"):
        for name in imports(path):
            top = name.split(".")[0]
            siblings = {sibling.stem for sibling in modules("programs")}
            allowed = top in PROGRAM_LIBRARIES or top in sys.stdlib_module_names or top in siblings
            assert allowed, f"{path.relative_to(ROOT)} imports {name}: it must run where this package is not installed"
