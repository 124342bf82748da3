"""Fill a state dict in the published checkpoint format with reproducible values.

`published_keys_<n>tasks.json` maps every key of the published format to its shape. `published_state(path)` gives each
key a value drawn from a NumPy generator that is seeded with the CRC-32 of the key, so that anyone can rebuild the very
weights behind the `net_*.npz` files without shipping them.
"""

import json
import zlib

import numpy as np
import torch


def published_state(keys_json):
    state = {}
    with open(keys_json) as file:
        shapes = json.load(file)
    for key, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        leaf = key.rsplit(".", 1)[-1]
        if leaf == "num_batches_tracked":
            value = torch.tensor(100)
        elif leaf == "relative_position_index":
            value = None  # derived from the window size, see below
        elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
            value = torch.tensor(rng.uniform(0.5, 1.5, shape), dtype=torch.float32)
        elif len(shape) > 1:  # convolution and linear weights, and the relative position bias table
            fan_in = int(np.prod(shape[1:])) if leaf == "weight" else 1
            value = torch.tensor(rng.standard_normal(shape) / np.sqrt(fan_in), dtype=torch.float32)
        else:  # biases and running means
            value = torch.tensor(rng.standard_normal(shape) * 0.1, dtype=torch.float32)
        if value is None:
            w = round(shape[0] ** 0.5)
            ij = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
            rel = ij[:, :, None] - ij[:, None] + w - 1
            value = rel[0] * (2 * w - 1) + rel[1]
        state[key] = value
    return state
