"""The stages, in order: what each runs on a GPU, and on a CPU in the dry mode."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PYTHON = sys.executable
TESTS = ("pytest", "xdist")


class Setting(NamedTuple):
    """What a run of the stages is made for."""

    folder: Path
    """Where everything is written."""
    dry: bool
    """On a CPU, at the smallest sizes: whether every command is right, not what it measures."""
    processes: int
    """In which tests run."""


@dataclass(frozen=True)
class Stage:
    """A part of the work that can be done, and done again, by itself."""

    name: str
    what: str
    minutes: float
    """After which it is stopped. What it has written until then stays."""
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()
    """Modules beyond those of the package itself."""
    extension: bool = True
    """Whether the CUDA C++ extension may be built and used."""


def stages(setting: Setting) -> list[Stage]:
    """All of them."""
    native = ("-m", "benchmarks.gpu.native")
    profile = ("--output", str(setting.folder / "profile.json"))
    options, convolutions = (str(setting.folder / f"{name}.json") for name in ("launch_options", "convolutions"))
    step = ("--op", "network", "--shape", "training-nyud")  # four tasks, then the two of the paper's recipe
    return [
        Stage(
            "start",
            "versions, choices of backends, every operator on every backend judged",
            4,
            _python(native, ("-m", "seqca", "explain"), ("-m", "seqca", "selftest")),
            extension=False,
        ),
        Stage(
            "kernels",
            "tests of the Triton kernels, compiled for this GPU",
            6,
            _python(_tests(setting, "tests/kernels", without="tests/kernels/test_resources.py", dry="clamp")),
            TESTS,
            extension=False,
        ),
        Stage(
            "extension",
            "the CUDA C++ extension is built, judged, and searched for bad accesses",
            6,
            (
                *_python((*native, "--extension")),
                *(() if setting.dry else _sanitized(native)),
            ),
            ("ninja",),
        ),
        Stage(
            "operators",
            "tests of the operators on every backend",
            7,
            _python(_tests(setting, "tests/ops", without="tests/ops/verification", dry="opcheck and softplus")),
            TESTS,
        ),
        Stage("quick", "benchmarks, the quick set", 5, _benchmarks(setting, "--quick", minutes=4)),
        Stage("standard", "benchmarks, the standard set", 7.5, _benchmarks(setting, minutes=7)),
        Stage(
            "step",
            "benchmarks of a training step: eager, compiled, as a graph, channels-last; where its time goes",
            7.5,
            (
                *_python(("-m", "benchmarks.gpu.compilation", *_dry(setting))),
                *_python(("-m", "benchmarks.profile", "--backends", "auto", "reference", *profile, *_dry(setting))),
                *_python(("-m", "benchmarks.gpu.convolutions", "--output", convolutions, *_dry(setting))),
                *_benchmarks(setting, "--full", *step, "--without", "max-autotune", minutes=6),
            ),
        ),
        Stage(
            "autotune",
            "the step as torch.compile makes it when it tries several kernels; what it found is kept for the next time",
            7.5,
            _benchmarks(setting, "--full", *step, "--provider", "max-autotune", minutes=7, name="autotune"),
        ),
        Stage(
            "recipe",
            "the paper's recipe from files to the optimiser: images a second, the largest batch, hours",
            7.5,
            _python(("-m", "benchmarks.gpu.recipe", "--output", str(setting.folder / "recipe.json"), *_dry(setting))),
            ("lightning", "torchvision"),
        ),
        Stage(
            "curves",
            "training on rooms: first steps judged; losses on the reference and the default backends, and the ablation",
            7.5,
            _python(("-m", "benchmarks.gpu.curves", "--output", str(setting.folder / "curves.json"), *_dry(setting))),
        ),
        Stage(
            "tuning",
            "parameters of linear attention timed, a patch of what is faster; launch options of a step's kernels timed",
            7.5,
            tuple(
                (*(("env", "TRITON_INTERPRET=1") if setting.dry else ()), *command)
                for command in _python(
                    ("-m", "benchmarks.gpu.tuning", "--output", str(setting.folder), *_dry(setting)),
                    ("-m", "benchmarks.gpu.launch_options", "--output", options, *_dry(setting)),
                )
            ),
        ),
    ]


def _python(*arguments: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((PYTHON, *those) for those in arguments)


def _dry(setting: Setting) -> tuple[str, ...]:
    return ("--dry",) if setting.dry else ()


def _tests(setting: Setting, folder: str, without: str, dry: str) -> tuple[str, ...]:
    """pytest on a folder; in the dry mode on the tests whose names match `dry`."""
    temporary = str(setting.folder / "tmp" / folder.replace("/", "-"))
    options = ("-p", "no:cacheprovider", "-p", "benchmarks.gpu.failures", "--basetemp", temporary, "--durations", "20")
    narrowed = ("-k", dry) if setting.dry else ()
    return ("-m", "pytest", "-n", str(setting.processes), *options, *narrowed, folder, "--ignore", without)


def _sanitized(native: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Tiny calls under the memory checker and the race checker, which come with CUDA."""
    program = (PYTHON, *native, "--tiny")
    return tuple(("compute-sanitizer", "--tool", tool, *program) for tool in ("memcheck", "racecheck"))


def _benchmarks(
    setting: Setting, *options: str, minutes: float, name: str | None = None
) -> tuple[tuple[str, ...], ...]:
    """A run of the benchmarks, whose result file is called after its set of cases where it has no name."""
    of_set = next((option.removeprefix("--") for option in options if option in ("--quick", "--full")), "standard")
    narrowed = (
        ("--op", "softplus", "--shape", "scale3", "--direction", "both")
        if setting.dry and "--op" not in options
        else ()
    )
    output = ("--output", str(setting.folder / f"{name or of_set}.json"), "--minutes", str(minutes))
    run = ("-m", "benchmarks", "run", *options, *narrowed, *output)
    if setting.dry and "--op" in options:  # the network takes minutes on a CPU
        run = ("-m", "benchmarks", "list", *options)
    return _python(run)
