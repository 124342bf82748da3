"""Every operator has the files that CONTRIBUTING.md lists."""

import re
from pathlib import Path

import pytest

from seqca.ops.shared.operator import OPERATORS, Operator

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## An operator\n")[2].partition("\n## ")[0]
LISTED = re.findall(r"^\| `([\w/<>.]+)` \|", SECTION, re.MULTILINE)


def test_the_guide_lists_at_most_ten_files() -> None:
    assert {"seqca/reference/<name>.py", "kernels/<name>/cases.py", "docs/resources.md"} <= set(LISTED)
    assert len(LISTED) <= 10


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)
def test_an_operator_has_the_files_that_the_guide_lists(operator: Operator) -> None:
    expected = [file for file in LISTED if "triton" in operator.backends or not file.startswith("kernels/")]
    assert [file for file in expected if not (ROOT / file.replace("<name>", operator.name)).is_file()] == []
