"""Where ops are declared: schema, fallback, fake and gradient in one call, and a record of what runs where.

The dispatcher chooses: the compiled kernel of the tensor's device (``fastunlearn._C`` registers it from C++), else the
reference. A fallback is never silent: it warns once per op and device, and ``FASTUNLEARN_REQUIRE_NATIVE=1`` makes it
an error.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

NAMESPACE = "fastunlearn"
_library = torch.library.Library(NAMESPACE, "DEF")


def _load_extension() -> str | None:
    """Load the compiled kernels; return why that failed, or None."""
    try:
        from fastunlearn import _C  # noqa: F401
    except ImportError as error:
        return f"the compiled kernels did not load ({error})"
    return None


LOAD_ERROR: str | None = _load_extension()


class Op:
    """One registered operator.

    Calling it computes the same as its `overload`, at a third of the overhead: with gradients it enters an
    autograd.Function directly, without it skips the autograd key. A training step makes hundreds of such calls on
    small tensors. The dispatcher's own way is taken under compilation and function transforms, which need it, and for
    lists of tensors, which autograd.Function cannot see.
    """

    def __init__(self, schema: str):
        self.name = schema.split("(", 1)[0]
        self.schema = schema
        self.overload = getattr(getattr(torch.ops, NAMESPACE), self.name).default
        self.function: type[torch.autograd.Function] | None = None
        self._kernel = self.overload._op
        arguments = self.overload._schema.arguments
        self._tensors = [i for i, argument in enumerate(arguments) if "Tensor" in str(argument.type)]
        self._written = [
            i for i, argument in enumerate(arguments) if argument.alias_info and argument.alias_info.is_write
        ]

    def __call__(self, *args: Any) -> Any:
        """Compute the op on the arguments of its schema, all given, in order."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return self.overload(*args)
        if torch.is_grad_enabled():
            for i in self._tensors:
                argument = args[i]
                if isinstance(argument, list | tuple):
                    if any(tensor.requires_grad for tensor in argument):
                        return self.overload(*args)
                elif argument is not None and argument.requires_grad and self.function is not None:
                    return self.function.apply(*args)
        return self.below_autograd(*args)

    def below_autograd(self, *args: Any) -> Any:
        """Run the kernel, recording no gradient; a graph that saved what it changes will notice."""
        with torch._C._AutoDispatchBelowAutograd():
            result = self._kernel(*args)
        for i in self._written:
            torch.autograd.graph.increment_version(args[i])
        return result

    def has_native(self, device: str) -> bool:
        """True when a compiled kernel is registered for the device type."""
        key = {"cpu": "CPU", "cuda": "CUDA"}.get(device)
        return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{self.name}", key)

    def missing(self, device: str) -> str:
        """Why there is no compiled kernel for the device type."""
        return LOAD_ERROR or f"the extension was built without a {device} kernel of this op"


OPS: dict[str, Op] = {}


def define(
    schema: str,
    *,
    reference: Callable,
    fake: Callable,
    setup_context: Callable | None = None,
    backward: Callable | None = None,
) -> Op:
    """Declare an op of the ``fastunlearn`` namespace.

    Args:
        schema: torch schema, ``name(Tensor x, …) -> Tensor``.
        reference: plain PyTorch, positional arguments as in the schema; runs where no kernel is compiled. Must not
            return an input or a view of one.
        fake: shapes, strides and dtypes only, same arguments.
        setup_context: ``setup_context(ctx, inputs, output)`` saves what the backward needs.
        backward: ``backward(ctx, *grads)`` returns one gradient (or None) per argument of the schema, computed by ops
            and differentiable torch functions only, so that gradients of any order exist.

    Returns:
        The op; call it with the schema's arguments, positionally.
    """
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = Op(schema)
    qualified = f"{NAMESPACE}::{op.name}"
    _library.impl(op.name, _announced(op, reference), "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_library)
        op.function = _autograd_function(op, setup_context, backward)
    OPS[op.name] = op
    return op


def _autograd_function(op: Op, setup_context: Callable, backward: Callable) -> type[torch.autograd.Function]:
    """What torch.library.register_autograd would call, without the dispatcher between."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = op.below_autograd(*args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(op.name, (torch.autograd.Function,), methods)


def _announced(op: Op, reference: Callable) -> Callable:
    """The reference, which says that it runs in place of a kernel."""
    told: set[str] = set()

    @functools.wraps(reference)
    def fallback(*args: Any) -> Any:
        device = _device_type(args)
        if device not in told:
            text = f"{op.name}: using plain PyTorch on {device}: {op.missing(device)}"
            if os.environ.get("FASTUNLEARN_REQUIRE_NATIVE") == "1":
                raise RuntimeError(f"{text}; FASTUNLEARN_REQUIRE_NATIVE=1 forbids it")
            told.add(device)
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return reference(*args)

    return fallback


def _device_type(args: tuple) -> str:
    for arg in args:
        if isinstance(arg, torch.Tensor):
            return arg.device.type
        if isinstance(arg, list | tuple) and arg and isinstance(arg[0], torch.Tensor):
            return arg[0].device.type
    return "cpu"


def implementations(public: Callable, reference: Callable, *ops: Op) -> dict[str, Callable]:
    """The ways to compute one public op on this build, by name, all with the public signature.

    ``reference`` is always there; ``cpu`` and ``cuda`` where every one of `ops` has a compiled kernel.
    """
    found = {"reference": reference}
    for device in ("cpu", "cuda"):
        if all(op.has_native(device) for op in ops):
            found[device] = public
    return found


class Choice(NamedTuple):
    """One line of ``fastunlearn doctor``."""

    op: str
    device: str
    implementation: str
    why: str


def choices() -> Iterator[Choice]:
    """What each op runs on each device, and why."""
    for op in OPS.values():
        for device in ("cpu", "cuda"):
            if device == "cuda" and not torch.cuda.is_available():
                native = "compiled" if op.has_native(device) else "not compiled"
                yield Choice(op.name, device, "none", f"no CUDA device; kernel {native}")
            elif op.has_native(device):
                yield Choice(op.name, device, "native", "compiled kernel registered")
            else:
                yield Choice(op.name, device, "reference", op.missing(device))
