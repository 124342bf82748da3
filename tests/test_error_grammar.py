"""What is wrong with an argument or a file is told in one grammar: `name: got …, expected …`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [file for folder in ("seqca", "kernels", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]
OF_INPUT = {"TypeError", "ValueError", "FileNotFoundError", "FloatingPointError", "CheckpointError", "ResultsError"}


def words(message: ast.AST) -> str:
    """The text of a message, with the names of what is filled in."""
    strings = [
        node.value for node in ast.walk(message) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    names = [node.id for node in ast.walk(message) if isinstance(node, ast.Name)]
    return " ".join([*strings, *names])


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """Of every exception about input that a file raises, the line and the message."""
    for node in ast.walk(ast.parse(file.read_text())):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in OF_INPUT:
            yield call.lineno, " ".join(map(words, call.args))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_message_tells_what_came_and_what_was_expected(file: Path) -> None:
    passed_on = ("error", "wanted", "found")  # the rest of the sentence comes from where they were made
    wrong = [
        f"line {line}: {text}"
        for line, text in messages(file)
        if not ("got " in text and "expected" in text) and not any(name in text.split() for name in passed_on)
    ]
    assert not wrong
