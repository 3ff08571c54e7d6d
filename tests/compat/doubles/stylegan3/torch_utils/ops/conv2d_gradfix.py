"""torch's convolutions, behind an import that setuptools no longer has."""

import contextlib

import torch
import torch.nn.functional as F
from pkg_resources import parse_version

enabled = False
weight_gradients_disabled = False
_new = parse_version(torch.__version__)


@contextlib.contextmanager
def no_weight_gradients(disable=True):
    global weight_gradients_disabled
    before, weight_gradients_disabled = weight_gradients_disabled, weight_gradients_disabled or disable
    yield
    weight_gradients_disabled = before


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
