"""Packages of the distribution: `seqca`, and the folder `kernels/` installed as `seqca.kernels`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["seqca", "seqca.*"]), "seqca.kernels"],
    package_dir={"seqca.kernels": "kernels"},
)
