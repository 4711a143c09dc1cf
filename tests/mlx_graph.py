"""What a lazy MLX result would launch, read from its graph."""

import io
import re
from collections import Counter

import mlx.core as mx
from mlx.utils import tree_flatten

_VIEWS = {
    "AsStrided", "Broadcast", "CustomTransforms", "Depends", "ExpandDims", "Flatten", "Reshape", "Slice", "Split",
    "Squeeze", "StopGradient", "Transpose", "Unflatten", "View int32", "View uint32", "View uint16",
}  # fmt: skip


def primitives(*results: object) -> Counter[str]:
    """Operations between evaluated arrays and these, by MLX's name, without those that only look at others' memory.

    A concatenation counts as often as it copies.
    """
    arrays = [each for _, each in tree_flatten(list(results)) if isinstance(each, mx.array)]
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    names = dict(re.findall(r'(\d+) \[label ?= ?"([^"]+)", shape=rectangle', text.getvalue()))
    found = Counter(name for name in names.values() if name not in _VIEWS)
    if "Concatenate" in found:
        found["Concatenate"] = sum(names[each] == "Concatenate" for each in re.findall(r'" -> (\d+)', text.getvalue()))
    return found
