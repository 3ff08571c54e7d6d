"""Classes whose pickles carry the source of their module."""

import inspect
import sys
import types
import uuid

_sources = {}  # module → source
_modules = {}  # source → module


def persistent_class(cls):
    class Persistent(cls):
        def __reduce__(self):
            return _reconstruct, (_source_of(sys.modules[type(self).__module__]), cls.__name__, self.__dict__)

    Persistent.__name__, Persistent.__module__ = cls.__name__, cls.__module__
    return Persistent


def _reconstruct(src, name, state):
    cls = getattr(_src_to_module(src), name)
    result = cls.__new__(cls)
    result.__dict__.update(state)
    return result


def _source_of(module):
    if module not in _sources:
        _sources[module] = inspect.getsource(module)
    return _sources[module]


def _src_to_module(src):
    if src not in _modules:
        module = types.ModuleType("_imported_module_" + uuid.uuid4().hex)
        sys.modules[module.__name__] = module
        _sources[module], _modules[src] = src, module
        exec(src, vars(module))
    return _modules[src]
