"""What the ops on lists of parameters ask of their arguments."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MOST_COPIED = 1 << 31  # elements of a tensor; memory is unlikely to hold more twice
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def as_lists(op: str, **lists: Iterable[Tensor]) -> list[list[Tensor]]:
    """Iterables as lists, whatever they hold.

    Raises:
        TypeError: not an iterable, or a tensor, which is one of its own rows.
    """
    for name, tensors in lists.items():
        if isinstance(tensors, Tensor) or not isinstance(tensors, Iterable):
            raise TypeError(f"{op}: {name} must be a list of tensors, got {type(tensors).__name__}")
    return [list(tensors) for tensors in lists.values()]


def check_lists(op: str, params: Iterable[Tensor], /, **others: Iterable[Tensor]) -> list[list[Tensor]]:
    """Params and the lists that go with them, as lists; each other tensor is like the parameter it belongs to.

    Raises:
        TypeError: not an iterable of tensors, or a dtype that the op does not know.
        ValueError: lists of different lengths, a tensor of another shape, dtype or device than its parameter,
            parameters on different devices, or more than 2³¹ elements that would have to be copied.
    """
    params = _as_list(op, "params", params)
    for i, param in enumerate(params):
        if param.dtype not in DTYPES:
            raise TypeError(f"{op}: params[{i}] must be float32, float64, bfloat16 or float16, got {param.dtype}")
        if param.device != params[0].device:
            raise ValueError(f"{op}: params[{i}] must be on {params[0].device} like params[0], got {param.device}")
        if param.numel() > MOST_COPIED and not torch.ops.aten.is_non_overlapping_and_dense(param):
            raise ValueError(f"{op}: params[{i}] must be dense to hold {param.numel()} elements, got {param.stride()}")
    result = [params]
    for name, tensors in others.items():
        tensors = _as_list(op, name, tensors)
        if len(tensors) != len(params):
            raise ValueError(f"{op}: {name} must hold {len(params)} tensors like params, got {len(tensors)}")
        for i, (param, tensor) in enumerate(zip(params, tensors, strict=True)):
            if param.shape != tensor.shape or param.dtype != tensor.dtype or param.device != tensor.device:
                raise ValueError(
                    f"{op}: {name}[{i}] must be {_describe(param)} like params[{i}], got {_describe(tensor)}"
                )
            if param.numel() > MOST_COPIED and param.stride() != tensor.stride():
                raise ValueError(
                    f"{op}: {name}[{i}] must have the strides {param.stride()} of params[{i}] to hold {param.numel()} "
                    f"elements, got {tensor.stride()}"
                )
        result.append(tensors)
    return result


def check_weights(op: str, tensor_weights: Sequence[float] | None, n: int) -> list[float]:
    """One weight per parameter, as floats; an empty list stands for ones.

    Raises:
        ValueError: not n numbers, or one that is negative or not finite.
    """
    if tensor_weights is None:
        return []
    weights = [float(weight) for weight in tensor_weights]
    if len(weights) != n:
        raise ValueError(f"{op}: tensor_weights must hold {n} numbers like params, got {len(weights)}")
    for i, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            raise ValueError(f"{op}: tensor_weights[{i}] must be non-negative and finite, got {weight}")
    return weights


def _as_list(op: str, name: str, tensors: Iterable[Tensor]) -> list[Tensor]:
    (tensors,) = as_lists(op, **{name: tensors})
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name}[{i}] must be a tensor, got {type(tensor).__name__}")
    return tensors


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
