"""Networks as folders, on this machine or on the Hugging Face Hub."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .checkpoint import CheckpointError, check_state

CLASS_NAMES = "class_names.json"


class HubNetwork(ModelHubMixin, library_name="seqca", license="mit", tags=["multi-task", "dense-prediction"]):
    """`save_pretrained(folder)`, `push_to_hub(repository)` and the class method `from_pretrained(folder or repository)`
    of a network.

    A folder holds config.json (the network's arguments), model.safetensors (its weights) and, where they are known,
    class_names.json. Only these three are read, and no code. A local folder needs no connection.

    Attributes:
        settings: the arguments that the network was made with, but for where its weights came from.
        class_names: {task: names of its classes}; may be assigned.
    """

    settings: dict[str, Any]
    class_names: dict[str, list[str]]

    def _save_pretrained(self, save_directory: Path) -> None:
        state: dict[str, torch.Tensor] = self.state_dict()  # type: ignore[attr-defined]
        write(save_directory / constants.CONFIG_NAME, self.settings)
        if self.class_names:
            write(save_directory / CLASS_NAMES, self.class_names)
        else:
            (save_directory / CLASS_NAMES).unlink(missing_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        target = save_directory / constants.SAFETENSORS_SINGLE_FILE
        temporary = target.with_name(f".{target.name}.part")
        try:
            save_file(weights, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **settings: Any,
    ) -> Any:
        def find(name: str) -> Path | None:
            if Path(model_id).is_dir():
                path = Path(model_id) / name
                return path if path.is_file() else None
            try:
                found = hf_hub_download(
                    model_id,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            except EntryNotFoundError:
                return None
            return Path(found)

        weights, names = find(constants.SAFETENSORS_SINGLE_FILE), find(CLASS_NAMES)
        if weights is None or "tasks" not in settings:
            missing = constants.SAFETENSORS_SINGLE_FILE if weights is None else constants.CONFIG_NAME
            raise CheckpointError(f"{model_id}: got no {missing}, expected what save_pretrained writes")
        try:
            state = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{weights}: {error}") from error
        settings = {**settings, "pretrained": False}  # its weights are here
        with torch.device("meta"):
            expected = cls(**settings).state_dict()  # type: ignore[attr-defined]
        check_state(state, expected, "the folder's settings")
        network = cls(**settings)
        network.load_state_dict(state)  # type: ignore[attr-defined]
        network.class_names = {} if names is None else json.loads(names.read_text())
        return network.eval()  # type: ignore[attr-defined]


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
