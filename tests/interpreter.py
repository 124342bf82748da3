"""Triton's interpreter without work that it repeats at every call of a device function, a quarter of its time or more.

At a launch it replaces the functions of `triton.language` by its own, and does so again for each device function that
the kernel calls. Once for each module that these are from is enough, until the launch puts the functions back.
"""

from typing import Any

from triton.runtime import interpreter


class _Launch:
    """What the launch that runs has replaced."""

    def __init__(self) -> None:
        self.modules: set[int] = set()
        self.scope: Any = None

    def restore(self) -> None:
        """The launch is over."""
        self.modules.clear()
        self.scope.restore()


def replace_functions_once_a_launch() -> None:
    """In all launches of this process."""
    replace, launch = interpreter._patch_lang, _Launch()

    def replace_once(function: Any) -> _Launch:
        module = id(function.__globals__)
        if module not in launch.modules:
            scope = replace(function)
            if not launch.modules:  # only the scope of the kernel itself is ever restored
                launch.scope = scope
            launch.modules.add(module)
        return launch

    interpreter._patch_lang = replace_once
