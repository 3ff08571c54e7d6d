"""torchvision as PyPI has it, linked with CUDA, imports beside a torch without: its own C++ operators stay missing.

Python runs this at its start; the suite puts the folder on the path only where torchvision refuses to be imported.
"""

import torch

_original = torch.library.register_fake


def _register_fake(operator, *args, **kwargs):
    """Without the registrations for operators that are not there, at which the import would end."""
    if isinstance(operator, str) and operator.startswith("torchvision::"):
        try:
            torch._C._dispatch_find_schema_or_throw(operator, "")
        except RuntimeError:
            return lambda function: function
    return _original(operator, *args, **kwargs)


torch.library.register_fake = _register_fake
try:
    import torchvision  # noqa: F401
finally:
    torch.library.register_fake = _original
