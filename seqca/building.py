"""How the extension `seqca._C` is built: the one place that knows, for setup.py and for builds at first use.

Only the standard library is imported, and nothing of this package: setup.py reads this file where neither torch nor
seqca is installed. What each environment variable does is told in docs/building.md.
"""

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
"""The name says for which Python: another one does not find it and needs its own."""
SIDECAR_NAME = "_C.json"
"""Beside it: with what it was built, or why it was not."""
SOURCES = ("linear_attention/operators.cu", "registration.cpp", "module.cpp")
SUFFIXES = (".cu", ".cpp", ".h")
"""Of sources and headers."""
ARCHITECTURES = ("80", "90", "100")
TORCH_TARGET = (2, 11)
"""The stable ABI of this torch is used, so the binary serves it and newer ones."""
BYTES_PER_JOB = 2**30
"""Memory that one compiler process may need; nvcc 13.0 took two thirds of it."""


class CannotBuild(RuntimeError):
    """Why the extension cannot be built here; the message is made for the user."""


class Torch(NamedTuple):
    """The torch that is built against."""

    folder: Path
    version: str
    cuda: str
    """Version of CUDA, as in torch.version.cuda."""


class Toolkit(NamedTuple):
    """The CUDA toolkit that compiles."""

    root: Path
    nvcc: Path
    version: str


class BuildParameters(NamedTuple):
    """Everything that decides about the binary."""

    sources: Path
    torch: Torch
    toolkit: Toolkit
    compiler: str
    """The host's C++ compiler."""
    compiler_version: str
    ninja: str
    architectures: tuple[str, ...]
    """Compute capabilities without the dot; for the last one PTX is included, from which newer GPUs compile."""
    jobs: int

    @property
    def definitions(self) -> tuple[str, ...]:
        """Preprocessor definitions of both compilers."""
        major, minor = TORCH_TARGET
        return ("-DUSE_CUDA", f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000")

    @property
    def includes(self) -> tuple[str, ...]:
        """Folders of headers; those of others are system headers, whose warnings are not ours."""
        return ("-I.", f"-isystem {self.torch.folder / 'include'}", f"-isystem {self.toolkit.root / 'include'}")

    @property
    def parallelism(self) -> tuple[str, ...]:
        """Architectures are compiled at once, and within one its kernels, by as many threads as are left."""
        return (f"--threads={self.jobs}", f"--split-compile={max(1, self.jobs // len(self.architectures))}")

    @property
    def nvcc_flags(self) -> tuple[str, ...]:
        """Flags of nvcc. There is no fast mathematics among them."""
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        last = self.architectures[-1]
        return (
            "-std=c++17", "-O3", *codes, f"-gencode=arch=compute_{last},code=compute_{last}",
            *self.parallelism, "-Xptxas=-v", f"-ccbin={self.compiler}", "-Xcompiler=-fPIC,-Wall,-Wextra",
            *self.definitions,
        )  # fmt: skip

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        """Flags of the host's compiler."""
        return ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", *self.definitions)

    @property
    def information(self) -> dict[str, object]:
        """What the module says about itself."""
        return {
            "architectures": list(self.architectures),
            "nvcc": self.toolkit.version,
            "compiler": f"{Path(self.compiler).name} {self.compiler_version}",
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "torch": self.torch.version,
            "cuda": self.torch.cuda,
            "torch_at_least": ".".join(map(str, TORCH_TARGET)),
            "flags": [f for f in self.nvcc_flags if f not in self.parallelism and not f.startswith("-ccbin")],
        }

    def key(self) -> str:
        """A name for the binary: equal if and only if sources and information are."""
        digest = hashlib.sha256(json.dumps(self.information, sort_keys=True).encode())
        for path in sorted(p for p in self.sources.rglob("*") if p.suffix in SUFFIXES):
            digest.update(str(path.relative_to(self.sources)).encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:16]


def parameters(
    environment: Mapping[str, str] = os.environ, architectures: Sequence[str] = ARCHITECTURES
) -> BuildParameters:
    """The parameters of a build here.

    Args:
        environment: SEQCA_CUDA_ARCHS, MAX_JOBS, CUDA_HOME, CUDA_PATH, CXX and PATH are read.
        architectures: where SEQCA_CUDA_ARCHS does not say otherwise.

    Raises:
        CannotBuild: if something is missing or does not fit together.
    """
    torch = _torch()
    toolkit = _toolkit(environment)
    if toolkit.version.split(".")[0] != torch.cuda.split(".")[0]:
        raise CannotBuild(f"nvcc is of CUDA {toolkit.version}, torch {torch.version} of CUDA {torch.cuda}")
    compiler = shutil.which(environment.get("CXX", "g++"), path=environment.get("PATH"))
    if compiler is None:
        raise CannotBuild(f"no C++ compiler: {environment.get('CXX', 'g++')} is not on the PATH")
    ninja = _ninja(environment)
    named = tuple(environment.get("SEQCA_CUDA_ARCHS", "").replace(".", "").replace(",", ";").split(";"))
    chosen = named if any(named) else tuple(architectures)
    if not all(re.fullmatch(r"\d{2,3}", a) and int(a) >= 80 for a in chosen):
        raise CannotBuild(f"SEQCA_CUDA_ARCHS: got {';'.join(chosen)}, expected capabilities from 80 on, such as 80;90")
    return BuildParameters(
        _sources(), torch, toolkit, compiler, _output(compiler, "-dumpfullversion", "-dumpversion").strip(), ninja,
        tuple(sorted(chosen, key=int)), _jobs(environment),
    )  # fmt: skip


def build(to: Path, by: BuildParameters, log: Path | None = None) -> None:
    """Compiles the extension into the folder `to`, beside a file that says with what.

    Args:
        to: folder; an older binary there is replaced when the new one is complete.
        by: the parameters.
        log: file for the output of the compilers, among it the registers of each kernel.

    Raises:
        CannotBuild: if a compiler fails; the message ends with its last words.
    """
    to.mkdir(parents=True, exist_ok=True)
    information = json.dumps(by.information)
    with tempfile.TemporaryDirectory(prefix="seqca-build-") as name:
        work = Path(name)
        (work / "build_information.h").write_text(f'#define SEQCA_BUILD_INFORMATION R"json({information})json"\n')
        (work / "build.ninja").write_text(_ninja_file(by))
        command = [by.ninja, "-C", name, "-j", str(by.jobs), "--verbose"]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(result.stdout)
        if result.returncode != 0:
            lines = [line for line in result.stdout.splitlines() if not line.startswith("ptxas info")]
            raise CannotBuild("a compiler failed:\n" + "\n".join(lines[-20:]))
        (work / SIDECAR_NAME).write_text(information + "\n")
        for file in (SIDECAR_NAME, FILE_NAME):
            _replace(work / file, to / file)


def note_skipped(to: Path, reason: str) -> None:
    """Leaves the reason why nothing was built where the package looks for it, and removes an older binary."""
    to.mkdir(parents=True, exist_ok=True)
    (to / FILE_NAME).unlink(missing_ok=True)
    (to / SIDECAR_NAME).write_text(json.dumps({"skipped": reason}) + "\n")


def cache_folder(by: BuildParameters, environment: Mapping[str, str] = os.environ) -> Path:
    """Where a build at first use lives: one folder for every combination of sources, torch, compilers and GPUs."""
    base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "seqca" / by.key()


def _ninja_file(by: BuildParameters) -> str:
    def escape(text: str) -> str:
        return text.replace("$", "$$").replace(":", "$:")

    nvcc = [str(by.toolkit.nvcc), *by.nvcc_flags, *by.includes]
    compiler = [by.compiler, *by.compiler_flags, *by.includes, f"-isystem {_python_headers()}"]
    libraries = [f"-L{by.torch.folder / 'lib'}", "-ltorch_cuda", "-ltorch_cpu", "-lc10"]
    libraries += [f"-L{by.toolkit.root / folder}" for folder in ("lib64", "lib")] + ["-lcudart"]
    objects = " ".join(f"{source}.o" for source in SOURCES)
    rules = [
        "rule cu\n  command = " + escape(" ".join(nvcc)) + " -c $in -o $out",
        "rule cpp\n  command = " + escape(" ".join(compiler)) + " -c $in -o $out",
        f"rule link\n  command = {escape(by.compiler)} -shared -s $in -o $out {escape(' '.join(libraries))}",
        *(f"build {s}.o: {s.rsplit('.')[1]} {escape(str(by.sources / s)).replace(' ', '$ ')}" for s in SOURCES),
        f"build {FILE_NAME}: link {objects}",
    ]
    return "\n".join(rules) + "\n"


def _replace(source: Path, target: Path) -> None:
    # The two folders may be on different file systems; a name that exists is always a whole file.
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def _sources() -> Path:
    here = Path(__file__).resolve().parent
    for folder in (here / "csrc", here.parent / "csrc"):
        if (folder / SOURCES[0]).is_file():
            return folder
    raise CannotBuild(f"the sources csrc/ are neither in {here} nor beside it")


def _torch() -> Torch:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise CannotBuild("the build cannot see torch, which pip hides from it without --no-build-isolation")
    folder = Path(spec.origin).parent
    version = runpy.run_path(str(folder / "version.py"))
    if version.get("cuda") is None:
        raise CannotBuild(f"torch {version['__version__']} is a build without CUDA")
    numbers = tuple(int(x) for x in version["__version__"].split(".")[:2])
    if numbers < TORCH_TARGET:
        raise CannotBuild(f"torch {version['__version__']} is older than {'.'.join(map(str, TORCH_TARGET))}")
    return Torch(folder, version["__version__"], version["cuda"])


def _toolkit(environment: Mapping[str, str]) -> Toolkit:
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    found = shutil.which("nvcc", path=str(Path(home) / "bin") if home else environment.get("PATH"))
    if found is None:
        where = f"{home}/bin, which CUDA_HOME names" if home else "the PATH, and CUDA_HOME is not set"
        raise CannotBuild(f"there is no nvcc on {where}")
    version = re.search(r"release (\d+\.\d+), V([\d.]+)", _output(found, "--version"))
    # The nvcc on the PATH may be a script that calls another one: the compiler itself knows where it lives.
    with tempfile.TemporaryDirectory() as name:
        empty = Path(name) / "empty.cu"
        empty.touch()
        top = re.search(r"^#\$ TOP=(.*)$", _output(found, "--dryrun", "-c", str(empty)), re.MULTILINE)
    if version is None or top is None:
        raise CannotBuild(f"{found} does not answer like nvcc")
    root = Path(top[1]).resolve()
    return Toolkit(root, root / "bin" / "nvcc", version[2])


def _ninja(environment: Mapping[str, str]) -> str:
    # pip puts build requirements beside the interpreter, which need not be on the PATH.
    path = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", "")))
    found = shutil.which("ninja", path=path)
    if found is None:
        raise CannotBuild("ninja is not installed (pip install ninja)")
    return found


def _jobs(environment: Mapping[str, str]) -> int:
    free = _free_memory()
    if free is not None and free < BYTES_PER_JOB:
        raise CannotBuild(f"{free / 2**30:.1f} GiB of memory are free, compiling takes {BYTES_PER_JOB / 2**30:.0f}")
    if jobs := environment.get("MAX_JOBS"):
        if not jobs.isdecimal():
            raise CannotBuild(f"MAX_JOBS: got {jobs!r}, expected a number")
        return max(1, int(jobs))
    most = os.cpu_count() or 1
    return max(1, most if free is None else min(most, free // BYTES_PER_JOB))


def _free_memory() -> int | None:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _python_headers() -> str:
    return sysconfig.get_path("include")


def _output(*command: str) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise CannotBuild(f"{' '.join(command)} failed: {result.stdout.strip()[-300:]}")
    return result.stdout
