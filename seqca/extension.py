"""Loading the CUDA C++ extension, whose operators become `torch.ops.seqca_cuda`.

The extension is built when the package is installed, or, with SEQCA_BUILD=jit in the environment, when an operator
first needs it; docs/building.md tells how.
"""

import functools
import json
import os
import platform
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from . import building

_JIT = os.environ.get("SEQCA_BUILD") == "jit"
_FOLDER = Path(__file__).resolve().parent


class ExtensionUnavailable(RuntimeError):
    """The extension cannot be built or loaded; the message says why, and what was built against what."""


def _sidecar(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / building.SIDECAR_NAME).read_text())
    except (OSError, ValueError):
        return {}


def _absence() -> str | None:
    if _JIT or (_FOLDER / building.FILE_NAME).is_file():
        return None
    reason = _sidecar(_FOLDER).get("skipped")
    return "the extension seqca._C is not built" + (f": {reason}" if reason else "") + " (docs/building.md)"


ABSENCE: str | None = _absence()
"""Why there is no extension, or None. Found at import, without loading anything."""


@functools.cache
def load() -> ModuleType:
    """The extension, built first if it is to be built at first use; the operators are registered then.

    Raises:
        ExtensionUnavailable: if it is not there, cannot be built or does not load.
    """
    if ABSENCE is not None:
        raise ExtensionUnavailable(ABSENCE)
    folder = _built_now() if _JIT else _FOLDER
    loader = ExtensionFileLoader("seqca._C", str(folder / building.FILE_NAME))
    spec = spec_from_file_location("seqca._C", loader=loader)
    assert spec is not None
    try:
        module = module_from_spec(spec)
        loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise ExtensionUnavailable(_mismatch(folder, error)) from error
    return module


def information() -> dict[str, Any]:
    """With what the extension was built: architectures, compilers, flags, versions.

    Raises:
        ExtensionUnavailable: as `load`.
    """
    return json.loads(load().build_information)


def _built_now() -> Path:
    devices = range(torch.cuda.device_count())
    capabilities = sorted({torch.cuda.get_device_capability(i) for i in devices})
    here = tuple(f"{major}{minor}" for major, minor in capabilities) or building.ARCHITECTURES
    try:
        parameters = building.parameters(architectures=here)
        folder = building.cache_folder(parameters)
        if not (folder / building.FILE_NAME).is_file():
            print(f"seqca: compiling the CUDA C++ extension into {folder}, once, a minute or two", flush=True)
            building.build(folder, parameters)
    except building.CannotBuild as reason:
        raise ExtensionUnavailable(f"the extension seqca._C cannot be built: {reason}") from reason
    return folder


def _mismatch(folder: Path, error: Exception) -> str:
    built = _sidecar(folder)
    return (
        f"{folder / building.FILE_NAME} does not load: {error}. It was built with Python {built.get('python')}, "
        f"torch {built.get('torch')} (for {built.get('torch_at_least')} and newer), CUDA {built.get('nvcc')}, "
        f"{built.get('compiler')}; here are Python {platform.python_version()}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}. Building again: docs/building.md"
    )
