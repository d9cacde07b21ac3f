"""Runs a TensorFlow.js graph model with torch: the operations that CenterNet on MobileNetV3 needs, and no others.

What each does is TensorFlow's definition of it (https://www.tensorflow.org/api_docs/python/tf/raw_ops). Tensors are
(batch, height, width, channels).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn


class Graph:
    """A graph and its constants, from `NAME.json` and `NAME.bin`."""

    def __init__(self, folder: Path, name: str) -> None:
        described = json.loads((folder / f"{name}.json").read_text())
        self._nodes = {node["name"]: node for node in described["modelTopology"]["node"]}
        self._constants = _constants(described["weightsManifest"][0]["weights"], (folder / f"{name}.bin").read_bytes())

    def __call__(self, images: torch.Tensor, output: str) -> torch.Tensor:
        """The output of the node of this name for `images` (1, height, width, 3), 0 to 255."""
        values: dict[str, Any] = {}
        waiting = [output]
        while waiting:
            name = waiting[-1]
            inputs = [given.partition(":") for given in self._nodes[name].get("input", [])]
            if missing := [given[0] for given in inputs if given[0] not in values]:
                waiting += missing
                continue
            given = [values[at][int(part or 0)] if part else _first(values[at]) for at, _, part in inputs]
            values[waiting.pop()] = self._value(self._nodes[name], given, images)
        return _first(values[output])

    def _value(self, node: Mapping[str, Any], given: list[Any], images: torch.Tensor) -> Any:
        if node["op"] == "Placeholder":
            return images
        if node["op"] == "Const":
            return self._constants[node["name"]]
        if node["op"] in _WITH_ATTRIBUTES:
            return _WITH_ATTRIBUTES[node["op"]](given, node["attr"])
        return _PLAIN[node["op"]](*given)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _constants(described: list[dict[str, Any]], raw: bytes) -> dict[str, torch.Tensor]:
    constants, start = {}, 0
    for each in described:
        stored = np.dtype(each.get("quantization", each)["dtype"])
        values = np.frombuffer(raw, stored, int(np.prod(each["shape"])), start).reshape(each["shape"])
        start += values.nbytes
        constants[each["name"]] = torch.from_numpy(values.astype("float32" if each["dtype"] == "float32" else "int64"))
    return constants


def _convolved(given: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    (images, weights, *bias), stride = given, int(attributes["strides"]["list"]["i"][1])
    return _activated(_convolution(images, weights.permute(3, 2, 0, 1), stride, 1, attributes), bias, attributes)


def _convolved_by_channel(given: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    (images, weights, *bias), stride = given, int(attributes["strides"]["list"]["i"][1])
    height, width, channels, multiplier = weights.shape
    filters = weights.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    return _activated(_convolution(images, filters, stride, channels, attributes), bias, attributes)


def _convolution(
    images: torch.Tensor, filters: torch.Tensor, stride: int, groups: int, attributes: Mapping[str, Any]
) -> torch.Tensor:
    moved = images.permute(0, 3, 1, 2)
    if base64.b64decode(attributes["padding"]["s"]) == b"SAME":
        edges = []
        for axis in (3, 2):  # torch pads the last axis first; TensorFlow the end more than the beginning
            size, kernel = moved.shape[axis], filters.shape[axis]
            padding = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            edges += [padding // 2, padding - padding // 2]
        moved = nn.pad(moved, edges)
    return nn.conv2d(moved, filters, stride=stride, groups=groups).permute(0, 2, 3, 1)


def _activated(images: torch.Tensor, bias: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    for fused in attributes.get("fused_ops", {}).get("list", {}).get("s", []):
        name = base64.b64decode(fused).decode()
        images = images + bias[0] if name == "BiasAdd" else _PLAIN[name](images)
    return images


def _greatest(given: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    kernel = int(attributes["ksize"]["list"]["i"][1])
    return nn.max_pool2d(given[0].permute(0, 3, 1, 2), kernel, 1, kernel // 2).permute(0, 2, 3, 1)


def _resized(images: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Bilinear, a pixel's place being its corner and not its centre."""
    for axis, wanted in ((1, int(size[0])), (2, int(size[1]))):
        places = torch.arange(wanted) * (images.shape[axis] / wanted)
        low = places.floor().long()
        high, share = (low + 1).clamp(max=images.shape[axis] - 1), places - low
        share = share.reshape([-1 if k == axis else 1 for k in range(4)])
        images = images.index_select(axis, low) * (1 - share) + images.index_select(axis, high) * share
    return images


def _sliced(given: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    images, begins, ends, steps = given[0], *(each.tolist() for each in given[1:])
    whole_begin, whole_end, one = (
        int(attributes[name].get("i", 0)) for name in ("begin_mask", "end_mask", "shrink_axis_mask")
    )
    index: list[Any] = []
    for axis, (begin, end, step) in enumerate(zip(begins, ends, steps, strict=True)):
        bit = 1 << axis
        part = slice(None if whole_begin & bit else begin, None if whole_end & bit else end, step)
        index.append(begin if one & bit else part)
    return images[tuple(index)]


def _concatenated(*given: Any) -> torch.Tensor:
    *parts, axis = given
    return torch.cat(parts, int(axis))


def _gathered(values: torch.Tensor, indices: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    at = int(axis)
    picked = values.index_select(at, indices.reshape(-1))
    return picked.reshape(*values.shape[:at], *indices.shape, *values.shape[at + 1 :])


def _cast(given: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    return given[0].float() if attributes["DstT"]["type"] == "DT_FLOAT" else given[0].long()


_PLAIN: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "ConcatV2": _concatenated,
    "Equal": torch.eq,
    "ExpandDims": lambda values, axis: values.unsqueeze(int(axis)),
    "FloorDiv": lambda values, by: torch.div(values, by, rounding_mode="floor"),
    "FloorMod": torch.remainder,
    "GatherV2": _gathered,
    "Identity": lambda values: values,
    "Mean": lambda values, axes: values.mean(tuple(axes.tolist()), keepdim=True),
    "Mul": torch.mul,
    "Relu": torch.relu,
    "Relu6": lambda values: values.clamp(0, 6),
    "Reshape": lambda values, shape: values.reshape(shape.tolist()),
    "ResizeBilinear": _resized,
    "Sigmoid": torch.sigmoid,
    "Sub": torch.sub,
    "TopKV2": lambda values, count: tuple(torch.topk(values, int(count))),
}
_WITH_ATTRIBUTES: dict[str, Callable[[list[Any], Mapping[str, Any]], Any]] = {
    "Cast": _cast,
    "Conv2D": _convolved,
    "DepthwiseConv2dNative": _convolved_by_channel,
    "FusedDepthwiseConv2dNative": _convolved_by_channel,
    "MaxPool": _greatest,
    "StridedSlice": _sliced,
    "_FusedConv2D": _convolved,
}
