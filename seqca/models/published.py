"""Checkpoints in the format of the published weights ⇄ state dicts of `SequentialCrossAttentionNet`.

One table of names says what a key of this package is called there. Where this package keeps the projections of all
pairs of tasks in one tensor, the published format has a tensor for every pair: the pieces along the first axis.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from seqca.configuration import NETWORK
from seqca.ops.window_attention import relative_position_index

from .checkpoint import LISTED, CheckpointError, describe, read_checkpoint, without_wrappers
from .network import SequentialCrossAttentionNet

State = Mapping[str, Tensor]
INDEX = "relative_position_index"

WINDOW_STAGE = [
    (r"embedding\.", "patch_embed.proj."),
    (r"embedding_norm\.", "patch_embed.norm."),
    (r"blocks\.(\d+)\.norm\.", r"layers.0.blocks.\1.norm1."),
    (r"blocks\.(\d+)\.unused_", r"layers.0.blocks.\1.norm2."),
    (r"blocks\.(\d+)\.qkv\.", r"layers.0.blocks.\1.attn.qkv."),
    (r"blocks\.(\d+)\.bias_table", r"layers.0.blocks.\1.attn.relative_position_bias_table"),
    (r"blocks\.(\d+)\.projection\.", r"layers.0.blocks.\1.attn.proj."),
    (r"norm\.", "norm0."),
]
ATTENTION = [
    (r"(query|key)_hidden\.", r"\1_project.0."),
    (r"(query|key)\.", r"\1_project.1."),
    (r"value\.", "value_project."),
]
CONV_BN = [(r"conv\.", "0."), (r"bn\.", "1.")]
BASIC_BLOCK = [(r"shortcut\.", "downsample."), (r"(conv|bn)", r"\1")]


def rename(rules: Sequence[tuple[str, str]], name: str) -> str:
    """`name` with its beginning replaced by the first rule that matches it."""
    for pattern, replacement in rules:
        if match := re.match(pattern, name):
            return match.expand(replacement) + name[match.end() :]
    raise KeyError(name)


def published_names(key: str, tasks: Sequence[str]) -> list[str]:
    """What `key` of this package is called in the published format: several names where it holds several pairs."""
    part, rest = key.split(".", 1)
    if part == "backbone":
        return [key]
    index, rest = rest.split(".", 1)
    if part == "self_attention":
        return [f"swTransform{int(index) + 1}.{rename(WINDOW_STAGE, rest)}"]
    if part == "features":
        kind, task, rest = rest.split(".", 2)
        if kind == "prediction":
            return [f"scale_{index}.decoders.{task}.{rest}"]
        block, rest = rest.split(".", 1)
        return [f"scale_{index}.refinement.{task}.{block}.{rename(BASIC_BLOCK, rest)}"]
    if part == "propagation":
        prefix, (kind, rest) = f"fpm_scale_{int(index) + 1}", rest.split(".", 1)
        if kind == "attention":
            return [f"{prefix}.swtf.{rename(WINDOW_STAGE, rest)}"]
        if kind == "reduction":
            return [f"{prefix}.dimensionality_reduction.{rename(BASIC_BLOCK, rest)}"]
        task, rest = rest.split(".", 1)
        return [f"{prefix}.se.{task}.{rename([('squeeze', 'squeeze.0'), ('excite', 'squeeze.2')], rest)}"]
    if part == "heads":
        return [f"heads.{index}.{published_head_name(rest)}"]
    kind, rest = rest.split(".", 1)
    prefix = f"distillation_scale_{index}"
    if kind == "reduction":
        return [f"{prefix}.dimensionality_reduction.{rename(BASIC_BLOCK, rest)}"]
    task, projection, rest = rest.split(".", 2)
    return [f"{prefix}.cross_attention.{name}.{rest}" for name in pair_projections(task, projection, tasks)]


def published_head_name(rest: str) -> str:
    layers = [(r"conv\.", "last_layer.0."), (r"bn\.", "last_layer.1."), (r"prediction\.", "last_layer.3.")]
    kind, rest = rest.split(".", 1)
    if kind == "aggregation":
        return rename(layers, rest)
    kind, target, rest = rest.split(".", 2)
    if kind == "attention":
        return f"cross_scale_attention{target}.{rename(ATTENTION, rest)}"
    step, rest = rest.split(".", 1)
    return f"upsample{int(target) + 1 + int(step)}{target}.{rename(CONV_BN, rest)}"


def pair_projections(task: str, projection: str, tasks: Sequence[str]) -> list[str]:
    """The pairs whose weights lie one after the other in a tensor of `PairProjections`."""
    others = [other for other in tasks if other != task]
    if projection == "value":
        return [f"{other}.{task}.value_project" for other in others]
    layer = {"hidden": 0, "features": 1}[projection]
    queries = [f"{task}.{other}.query_project.{layer}" for other in others]
    return queries + [f"{other}.{task}.key_project.{layer}" for other in others]


def to_published_state(state: State) -> dict[str, Tensor]:
    """A state dict of `SequentialCrossAttentionNet` in the published format; the inverse of `from_published_state`.

    Raises:
        ValueError: the keys are not those of the network, with the first of what is wrong.
    """
    tasks, auxiliary = find_tasks(state, r"features\.3\.prediction\.(\w+)\.weight", r"heads\.(\w+)\.")
    refuse_variants(state, len(tasks) + len(auxiliary))
    refuse_differences(state, "the network", expected_state(tasks, auxiliary))
    return split_pairs(state, [*tasks, *auxiliary])


def from_published_state(
    state: State | Mapping[str, State] | str | Path, tasks: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """A published checkpoint as a state dict of `SequentialCrossAttentionNet`, every value kept.

    Args:
        state: the state dict, a mapping {"model": state dict}, or a file with either; "module." may stand in front of
            every key, and "_orig_mod." in it.
        tasks: the order of the tasks, where the keys of `state` were sorted after it was saved. By default it is the
            order in which the state dict names them; the network depends on it.

    Raises:
        ValueError: keys too many, too few or of the wrong shape, with the first of what is wrong.
    """
    state = unwrap(state)
    final, auxiliary = published_tasks(state, tasks)
    every = [*final, *auxiliary]
    ours = expected_state(final, auxiliary)
    expected = split_pairs(ours, every)
    refuse_differences(state, "the published format", expected)

    result = {}
    for key, like in ours.items():
        pieces = [state[name] for name in published_names(key, every)]
        if like.dim() == 0:
            if any(piece != pieces[0] for piece in pieces):
                raise ValueError(
                    f"{key}: got {[int(p) for p in pieces]} in the pairs behind it, expected one and the same"
                )
            result[key] = pieces[0].clone()
        else:
            result[key] = torch.cat(pieces)
    for name, value in state.items():
        if name.endswith(INDEX) and not torch.equal(value.cpu(), relative_position_index(NETWORK.window)):
            raise ValueError(f"{name}: got another index, expected that of a {NETWORK.window}×{NETWORK.window} window")
    return result


def published_tasks(
    state: State | Mapping[str, State] | str | Path, tasks: Sequence[str] | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """The tasks and the auxiliary tasks of a published checkpoint, {name: output channels} each, in order."""
    return find_tasks(unwrap(state), r"scale_3\.decoders\.(\w+)\.weight", r"heads\.(\w+)\.", tasks)


def find_tasks(
    state: State, prediction: str, head: str, order: Sequence[str] | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """Tasks are what has a deep prediction; those without a head are auxiliary."""
    channels = {m[1]: value.shape[0] for key, value in state.items() if (m := re.fullmatch(prediction, key))}
    with_head = {m[1] for key in state if (m := re.match(head, key))}
    if not with_head & channels.keys():
        like = [pattern.replace(r"(\w+)", "TASK").replace("\\", "") for pattern in (prediction, head)]
        raise ValueError(f"state: got no task, expected keys like {like[0]} and {like[1]}")
    if order is not None:
        if sorted(order) != sorted(channels):
            raise ValueError(f"tasks: got {list(order)}, expected an order of {sorted(channels)}")
        channels = {task: channels[task] for task in order}
    tasks = {task: n for task, n in channels.items() if task in with_head}
    auxiliary = {task: n for task, n in channels.items() if task not in with_head}
    if [*tasks, *auxiliary] != list(channels):
        raise ValueError(
            f"tasks: got the order {list(channels)}, expected the auxiliary ones, {list(auxiliary)}, after the others"
        )
    return tasks, auxiliary


def unwrap(state: State | Mapping[str, State] | str | Path) -> State:
    """The bare state dict behind a file, a {"model": …} and the prefixes that wrappers of modules leave."""
    bare: object = read_checkpoint(state) if isinstance(state, str | Path) else state
    if isinstance(bare, Mapping) and isinstance(bare.get("model"), Mapping):
        bare = bare["model"]
    if not isinstance(bare, Mapping) or not all(isinstance(value, Tensor) for value in bare.values()):
        raise ValueError(
            f"state: got {describe(bare)} that is no state dict, expected one, {{'model': state dict}}, or a file with "
            "either"
        )
    return without_wrappers(bare)


def expected_state(tasks: Mapping[str, int], auxiliary: Mapping[str, int]) -> dict[str, Tensor]:
    """The state dict of the network on the meta device: keys, shapes and dtypes without values."""
    with torch.device("meta"):
        return dict(SequentialCrossAttentionNet(tasks, auxiliary).state_dict())


def split_pairs(state: State, tasks: Sequence[str]) -> dict[str, Tensor]:
    """The published keys of a complete state dict, in its order."""
    published = {}
    for key, value in state.items():
        names = published_names(key, tasks)
        pieces = [value] * len(names) if value.dim() == 0 else value.chunk(len(names))
        for name, piece in zip(names, pieces, strict=True):
            published[name] = piece.clone()
            if name.endswith("bias_table"):
                index = relative_position_index(NETWORK.window, value.device)
                published[name.removesuffix("relative_position_bias_table") + INDEX] = index
    return published


def refuse_variants(state: State, tasks: int) -> None:
    """Raise for a network without one of its exchanges, which was never published."""
    without = [] if tasks == 1 or any(key.startswith("cross_task.") for key in state) else ["cross_task"]
    without += [] if any(re.match(r"heads\.\w+\.attention\.", key) for key in state) else ["cross_scale"]
    if without:
        switches = ", ".join(f"{name}=False" for name in without)
        raise ValueError(
            f"state: got a network with {switches}, expected the whole one; variants have no published format"
        )


def refuse_differences(state: State, expected_name: str, expected: State) -> None:
    """Raise with the keys that are missing, unknown or of another shape, the first ones where there are many."""
    wrong = [f"missing: {key} {tuple(expected[key].shape)}" for key in expected if key not in state]
    wrong += [f"unknown: {key} {tuple(state[key].shape)}" for key in state if key not in expected]
    wrong += [
        f"shape of {key}: {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if wrong:
        count = f"{len(wrong)} difference{'s' * (len(wrong) > 1)}"
        more = [f"and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        raise CheckpointError(
            "\n".join(
                [f"state: got a state dict with {count}, expected that of {expected_name}", *wrong[:LISTED], *more]
            )
        )
