"""What the tests of registered operators rely on."""

from collections.abc import Callable
from typing import Any

import pytest

from seqca.ops.shared.operator import Operator


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Operator, str], dict[str, list[Any]]]:
    """Starts to note the arguments with which a backend's forward and backward are called."""

    def start(operator: Operator, backend: str) -> dict[str, list[Any]]:
        implementation = operator.implementation(backend)
        calls: dict[str, list[Any]] = {"forward": [], "backward": []}

        def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any) -> Any:
                calls[name].append(args)
                return function(*args)

            return noted

        for name in calls:
            monkeypatch.setattr(implementation, name, noting(name, getattr(implementation, name)))
        return calls

    return start
