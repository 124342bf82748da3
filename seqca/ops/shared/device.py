"""The device type on which `explain` and `selftest` look at the operators."""

import torch


def checked_device(device: str | None) -> str:
    """A device type that torch can use on this machine; by default "cuda" where there is a GPU, else "cpu".

    Raises:
        ValueError: for any other.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    usable = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    if device not in usable:
        raise ValueError(f"device: got {device!r}, expected one that torch can use here: {', '.join(usable)}")
    return device
