"""Where and on what a result was measured."""

import hashlib
import os
import platform
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
MEASURED_TREES = ("kernels", "csrc", "seqca/ops")
_SOURCES = ("seqca", "kernels", "csrc", "benchmarks", ":!benchmarks/results")


def environment(device: str, checkout: Path = ROOT) -> dict[str, Any]:
    """Hardware, versions, commit, and the git tree hashes of the operators' sources.

    Args:
        device: device type.
        checkout: the git checkout that the measured package comes from.
    """
    return {
        "device": device,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        **(_gpu() if device == "cuda" else {}),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _triton_version(),
        "tf32": {
            "matrix products": torch.backends.cuda.matmul.allow_tf32,
            "convolutions": torch.backends.cudnn.allow_tf32,
        },
        **source(checkout),
    }


def source(checkout: Path) -> dict[str, Any]:
    """The commit, and what identifies the sources: hashes of the trees, and of changes not committed."""
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=all", "--", *_SOURCES)
    return {
        "commit": _git(checkout, "rev-parse", "HEAD"),
        "dirty": bool(changes),
        "changes": _digest(checkout, changes) if changes else None,
        "trees": {tree: _git(checkout, "rev-parse", f"HEAD:{tree}") for tree in MEASURED_TREES},
    }


def same_conditions(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The entries in which two environments differ, so that their measurements must not be mixed."""
    ignored = {"clocks"}
    return [key for key in one.keys() | other.keys() if key not in ignored and one.get(key) != other.get(key)]


def last_level_cache(device: str) -> int:
    """Bytes of the last cache before memory."""
    if device == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1] in units), default=32 * 2**20)


def _git(checkout: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _digest(checkout: Path, changes: str) -> str:
    difference = _git(checkout, "diff", "HEAD", "--", *_SOURCES) or ""
    untracked = _git(checkout, "ls-files", "--others", "--exclude-standard", "--", *_SOURCES) or ""
    digest = hashlib.sha256((changes + difference).encode())
    for name in untracked.splitlines():
        digest.update((checkout / name).read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "driver": _nvidia_smi("driver_version"),
        "clocks": _nvidia_smi("clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"),
    }


def _nvidia_smi(query: str) -> str | None:
    index = str(torch.cuda.current_device())
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        index = visible.split(",")[int(index)]
    command = ["nvidia-smi", f"--id={index}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _triton_version() -> str | None:
    if find_spec("triton") is None:
        return None
    import triton

    return triton.__version__
