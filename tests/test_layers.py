"""Imports go one way: from what is made of parts to the parts."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "seqca"
KERNELS = PACKAGE.parent / "kernels"
LAYERS = (
    "files",
    "thinning",
    "configuration",
    "labels",
    "loss_type",
    "pairs",
    "colour",
    "tasks",
    "protocols",
    "building",
    "extension",
    "reference",
    "ops",
    "nn",
    "models",
    "losses",
    "acceleration",
    "metrics",
    "data",
    "network_calls",
    "explanation",
    "messages",
    "inference",
    "training",
    "cli",
    "__main__",
)
"""The parts of the package; each imports only parts that stand in front of it."""

FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(node: ast.AST, package: list[str]) -> Iterator[str]:
    """The modules that code imports, also inside functions; what only annotations need is left out."""
    for child in ast.iter_child_nodes(node):
        if for_types_alone(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else []
            module = [*base, *(child.module.split(".") if child.module else [])]
            yield from (".".join([*module, alias.name]) for alias in child.names)
        else:
            yield from imports(child, package)


def imported_modules(file: Path, folder: Path, package: str) -> list[str]:
    """What a file imports, which stands somewhere in the folder of a package."""
    return [*imports(ast.parse(file.read_text()), [*package.split("."), *file.relative_to(folder).parts[:-1]])]


def imported_parts(file: Path) -> set[str]:
    found = (name.split(".") for name in imported_modules(file, PACKAGE, "seqca"))
    return {path[1] for path in found if path[0] == "seqca" and len(path) > 1}


def test_every_part_has_its_layer() -> None:
    assert {part_of(file) for file in FILES} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize(
    "file", [file for file in FILES if part_of(file) != "__init__"], ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_imports_lead_downwards(file: Path) -> None:
    part = part_of(file)
    below = {*LAYERS[: LAYERS.index(part) + 1], "kernels"}
    assert imported_parts(file) & {*LAYERS} <= below


def test_only_the_operators_import_the_reference() -> None:
    importers = {part_of(file) for file in FILES if "reference" in imported_parts(file)}
    assert importers - {"reference"} == {"ops"}


@pytest.mark.parametrize("file", sorted(KERNELS.rglob("*.py")), ids=lambda file: str(file.relative_to(KERNELS)))
def test_kernels_import_what_operators_share_and_nothing_of_any(file: Path) -> None:
    registered = ["seqca.ops"] if file.name == "resources.py" else []  # it lists the kernels of all operators
    package = [name for name in imported_modules(file, KERNELS, "seqca.kernels") if name.split(".")[0] == "seqca"]
    shared = ("seqca.kernels.", "seqca.ops.shared.", "seqca.configuration.", "seqca.pairs.")
    assert [name for name in package if not name.startswith(shared) and name not in registered] == []
    operators = {cases.parent.name for cases in KERNELS.glob("*/cases.py")} - {file.parent.name}
    assert [name for name in package if name.startswith("seqca.kernels.") and name.split(".")[2] in operators] == []


def test_benchmarks_measure_operators_and_not_what_these_are_compared_with() -> None:
    root = PACKAGE.parent
    of_file = {
        file: imports(ast.parse(file.read_text()), ["benchmarks"]) for file in (root / "benchmarks").rglob("*.py")
    }
    assert [file for file, names in of_file.items() if any(name.startswith("seqca.reference") for name in names)] == []
