"""Where ops are declared: schema, fallback, fake and gradient in one call, and a record of what runs where.

The dispatcher chooses: the compiled kernel of the tensor's device (``fastunlearn._C`` registers it from C++), else on
CUDA the op's Triton kernel (``triton_kernel.py`` in its folder, imported on first use), else the reference. A fallback
to the reference is never silent: it warns once per op and device, and ``FASTUNLEARN_REQUIRE_NATIVE=1`` makes it an
error.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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

# True inside IMPLEMENTATIONS["triton"] and the backward of what it computed.
_through_triton: ContextVar[bool] = ContextVar("fastunlearn_through_triton", default=False)


@contextmanager
def through_triton(wanted: bool = True) -> Iterator[None]:
    """Ops that are called in here run their Triton kernels, unless not `wanted`."""
    token = _through_triton.set(wanted)
    try:
        yield
    finally:
        _through_triton.reset(token)


def is_through_triton() -> bool:
    """What a node of the graph keeps, so that its backward takes the way of its forward."""
    return _through_triton.get()


class Op:
    """One registered operator.

    Calling it computes the same as its `overload`, at a third of the overhead: with gradients it enters an
    autograd.Function directly, without it skips the autograd key. A training step makes hundreds of such calls on
    small tensors. The dispatcher's own way is taken under compilation and function transforms, which need it.
    """

    def __init__(self, schema: str, package: str):
        self.name = schema.split("(", 1)[0]
        self.schema = schema
        self.overload = getattr(getattr(torch.ops, NAMESPACE), self.name).default
        self.recorded: Callable | None = None  # computes the op and records its gradient
        self.check: Callable | None = None
        self.devices = ("cpu", "cuda")
        self._kernel = self.overload._op
        arguments = self.overload._schema.arguments
        self._tensors = [i for i, argument in enumerate(arguments) if "Tensor" in str(argument.type)]
        self._written = [
            i for i, argument in enumerate(arguments) if argument.alias_info and argument.alias_info.is_write
        ]
        qualified = f"{NAMESPACE}::{self.name}"
        keys = {"cpu": "CPU", "cuda": "CUDA"}
        self._native = {d for d, k in keys.items() if torch._C._dispatch_has_kernel_for_dispatch_key(qualified, k)}
        self.triton_module = f"{package}.triton_kernel"
        self.without_triton = self._find_triton()

    def __call__(self, *args: Any) -> Any:
        """Compute the op on the arguments of its schema, all given, in order."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return self.overload(*args)
        if self.recorded is not None and torch.is_grad_enabled():
            for i in self._tensors:
                argument = args[i]
                if isinstance(argument, list | tuple):
                    asked = any(getattr(tensor, "requires_grad", False) for tensor in argument)
                else:
                    asked = argument is not None and argument.requires_grad
                if asked:
                    return self.recorded(*args)
        return self.below_autograd(*args)

    def below_autograd(self, *args: Any) -> Any:
        """Run the kernel, recording no gradient; a graph that saved what it changes will notice."""
        kernel = self.triton if _through_triton.get() else self._kernel
        with torch._C._AutoDispatchBelowAutograd():
            try:
                result = kernel(*args)
            except RuntimeError:
                if self.check is not None:
                    self.check(*args)
                raise
        for i in self._written:
            torch.autograd.graph.increment_version(args[i])
        return result

    def has_native(self, device: str) -> bool:
        """True when a compiled kernel is registered for the device type."""
        return device in self._native

    def _find_triton(self) -> str | None:
        """Why this op has no Triton kernel to run, or None; importing Triton would take a second."""
        if importlib.util.find_spec(self.triton_module) is None:
            return "this op has no Triton kernel"
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        return None

    @functools.cached_property
    def triton(self) -> Callable:
        """The Triton implementation; raises ImportError, whose text is kept in `without_triton`."""
        try:
            run = getattr(importlib.import_module(self.triton_module), f"{self.name.rstrip('_')}_triton")
        except ImportError as error:
            self.without_triton = f"Triton did not load ({error})"
            raise
        return _after(self.check, run)

    def choice(self, device: str) -> tuple[str, str]:
        """What runs on a device type: native, triton or reference; and why."""
        if self.has_native(device):
            return "native", "compiled kernel registered"
        missing = LOAD_ERROR or f"the extension was built without a {device} kernel of this op"
        if device != "cuda":
            return "reference", missing
        if self.without_triton is None:
            return "triton", missing
        return "reference", f"{missing}, and {self.without_triton}"


OPS: dict[str, Op] = {}


def define(
    schema: str,
    *,
    reference: Callable,
    fake: Callable,
    check: Callable | None = None,
    setup_context: Callable | None = None,
    backward: Callable | None = None,
    devices: tuple[str, ...] = ("cpu", "cuda"),
) -> Op:
    """Declare an op of the ``fastunlearn`` namespace.

    Args:
        schema: torch schema, ``name(Tensor x, …) -> Tensor``.
        reference: plain PyTorch, positional arguments as in the schema; runs where no kernel is compiled. Must not
            return an input or a view of one.
        fake: shapes, strides and dtypes only, same arguments.
        check: raises, in words, where arguments do not fit together; same arguments. A compiled kernel sees that for
            itself, cheaper and before it writes: there it runs once the kernel has refused, everywhere else first.
        setup_context: ``setup_context(ctx, inputs, output)`` saves what the backward needs.
        backward: ``backward(ctx, *grads)`` returns one gradient (or None) per argument of the schema, computed by ops
            and differentiable torch functions only, so that gradients of any order exist.
        devices: the types that it is called on; elsewhere its users do without it.

    Returns:
        The op; call it with the schema's arguments, positionally.
    """
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = Op(schema, package=reference.__module__.rpartition(".")[0])
    op.devices = devices
    op.check, reference, fake = check, _after(check, reference), _after(check, fake)
    qualified = f"{NAMESPACE}::{op.name}"
    fallback = _announced(op, reference)
    _library.impl(op.name, fallback, "CompositeExplicitAutograd")
    if op.choice("cuda")[0] == "triton":
        _library.impl(op.name, _triton_or(op, fallback), "CUDA")
    torch.library.register_fake(qualified, fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_library)
        op.recorded = _autograd_function(op, setup_context, backward).apply
    OPS[op.name] = op
    return op


def _after(check: Callable | None, function: Callable) -> Callable:
    """The function, called once its arguments have been checked."""
    if check is None:
        return function

    @functools.wraps(function)
    def checked(*args: Any) -> Any:
        check(*args)
        return function(*args)

    return checked


def _autograd_function(op: Op, setup_context: Callable, backward: Callable) -> type[torch.autograd.Function]:
    """What torch.library.register_autograd would call, without the dispatcher between."""

    def forward(ctx: Any, *args: Any) -> Any:
        output = op.below_autograd(*args)
        ctx.through_triton = is_through_triton()
        setup_context(ctx, args, output)
        return output

    def same_way_back(ctx: Any, *grads: Any) -> Any:
        with through_triton(ctx.through_triton):
            return backward(ctx, *grads)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(same_way_back)}
    return type(op.name, (torch.autograd.Function,), methods)


def _announced(op: Op, reference: Callable) -> Callable:
    """The reference, which says that it runs in place of a kernel."""
    told: set[str] = set()

    @functools.wraps(reference)
    def fallback(*args: Any) -> Any:
        device = _device_type(args)
        if device not in told:
            text = f"{op.name}: using plain PyTorch on {device}: {op.choice(device)[1]}"
            if os.environ.get("FASTUNLEARN_REQUIRE_NATIVE") == "1":
                raise RuntimeError(f"{text}; FASTUNLEARN_REQUIRE_NATIVE=1 forbids it")
            told.add(device)
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return reference(*args)

    return fallback


def _triton_or(op: Op, fallback: Callable) -> Callable:
    """The op's Triton kernel, or the reference where Triton turns out not to load."""

    def kernel(*args: Any) -> Any:
        if op.without_triton is None:
            try:
                run = op.triton
            except ImportError:  # the fallback says why
                return fallback(*args)
            return run(*args)
        return fallback(*args)

    return kernel


def _device_type(args: tuple) -> str:
    for arg in args:
        if isinstance(arg, torch.Tensor):
            return arg.device.type
        if isinstance(arg, list | tuple) and arg and isinstance(arg[0], torch.Tensor):
            return arg[0].device.type
    return "cpu"


def implementations(public: Callable, reference: Callable, *ops: Op) -> dict[str, Callable]:
    """The ways to compute one public op on this build, by name, all with the public signature.

    ``reference`` is always there; ``cpu`` and ``cuda`` where every one of `ops` has a compiled kernel; ``triton``, for
    tensors on CUDA, where each has a Triton kernel and Triton is installed, also beside a compiled one (graphs that
    torch.compile makes take the dispatcher's choice).
    """
    found = {"reference": reference}
    for device in ("cpu", "cuda"):
        if all(op.has_native(device) for op in ops):
            found[device] = public
    if all(op.without_triton is None for op in ops):

        @functools.wraps(public)
        def triton(*args: Any, **kwargs: Any) -> Any:
            with through_triton():
                return public(*args, **kwargs)

        found["triton"] = triton
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
        for device in op.devices:
            implementation, why = op.choice(device)
            if device == "cuda" and not torch.cuda.is_available():
                there = {"native": "kernel compiled", "triton": "Triton kernel", "reference": "no kernel"}
                implementation, why = "none", f"no CUDA device; {there[implementation]}: {why}"
            yield Choice(op.name, device, implementation, why)
