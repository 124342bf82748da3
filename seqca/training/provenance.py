"""Where scores come from."""

import subprocess
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

import seqca


def about(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """What a file of scores says besides them: protocol, version, commit (None outside a checkout), checkpoint (None
    where the weights are in memory), and Δm in percent where single-task scores are known."""
    facts: dict[str, Any] = {
        "protocol": pl_module.hparams["protocol"],
        "version": seqca.__version__,
        "commit": commit(),
        "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
    }
    if getattr(pl_module, "single_task_scores", None) is not None:
        facts["delta_m"] = pl_module.overall(pl_module.scores)
    return facts


def commit() -> str | None:
    """The commit of the checkout that the package is in, with "+" where files differ from it."""
    folder = Path(seqca.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        if git("ls-files", "--", "__init__.py") != "__init__.py":  # a repository that the package is installed in
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
