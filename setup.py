"""Packages of the distribution, and the optional extension `seqca._C`.

`kernels/` and `csrc/` are installed as `seqca.kernels` and `seqca.csrc`. Where the extension cannot be built the
installation succeeds without it and says why, once; see docs/building.md.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
# By path: importing the package would need torch.
spec = importlib.util.spec_from_file_location("building", HERE / "seqca" / "building.py")
building = importlib.util.module_from_spec(spec)
sys.modules["building"] = building
spec.loader.exec_module(building)

SWITCH = os.environ.get("SEQCA_BUILD", "auto")
if SWITCH not in ("auto", "0", "1", "jit"):
    raise SystemExit(f"SEQCA_BUILD: got {SWITCH!r}, expected auto, 0, 1 or jit")


def obstacle():
    """Why nothing will be built, or None."""
    if SWITCH in ("0", "jit"):
        return f"SEQCA_BUILD={SWITCH} was set during installation"
    try:
        building.parameters()
    except building.CannotBuild as reason:
        return str(reason)
    return None


def skip(folder, reason):
    """Goes on without the extension, unless it was demanded."""
    if SWITCH == "1":
        raise SystemExit(f"seqca: SEQCA_BUILD=1 was set, but {reason}")
    building.note_skipped(Path(folder), reason)
    print(f"seqca: installed without its CUDA C++ extension: {reason} (docs/building.md)", file=sys.stderr)


class BuildExtension(build_ext):
    """Compiles by the package's own parameters."""

    def build_extension(self, extension):
        folder = Path(self.build_lib) / "seqca"
        try:
            building.build(folder, building.parameters(), log=Path(self.build_temp) / "compilers.log")
        except building.CannotBuild as reason:
            skip(folder, str(reason))

    def copy_extensions_to_source(self):
        """For an editable installation, in which a binary of other sources must not stay."""
        (HERE / "seqca" / building.FILE_NAME).unlink(missing_ok=True)
        for file in self._files():
            shutil.copyfile(file, HERE / "seqca" / file.name)

    def get_outputs(self):
        return [str(file) for file in self._files()]

    def _files(self):
        folder = Path(self.build_lib) / "seqca"
        return [folder / name for name in (building.FILE_NAME, building.SIDECAR_NAME) if (folder / name).is_file()]


class BuildWithoutExtension(build_py):
    """Notes in the package why it has no extension."""

    def run(self):
        super().run()
        skip(HERE / "seqca" if self.editable_mode else Path(self.build_lib) / "seqca", OBSTACLE)


OBSTACLE = obstacle()
if OBSTACLE is None:
    build = {
        "ext_modules": [Extension("seqca._C", [f"csrc/{name}" for name in building.SOURCES])],
        "cmdclass": {"build_ext": BuildExtension},
    }
else:
    build = {"cmdclass": {"build_py": BuildWithoutExtension}}

setup(
    packages=[
        *find_packages(include=["seqca", "seqca.*"]),
        "seqca.kernels",
        *(f"seqca.kernels.{name}" for name in find_packages("kernels")),
        "seqca.csrc",
    ],
    package_dir={"seqca.kernels": "kernels", "seqca.csrc": "csrc"},
    package_data={"seqca": ["py.typed"], "seqca.csrc": [f"**/*{suffix}" for suffix in building.SUFFIXES]},
    **build,
)
