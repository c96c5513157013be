"""Neural style transfer as pure functions in JAX and Flax."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

TYPE_CHECKING = False  # `typing` takes a while to import
if TYPE_CHECKING:
    from typing import Any

    from jaxnst.public import *  # noqa: F403
    from jaxnst.public import __all__ as __all__

__version__ = "0.1.0"


#: Submodules that are called as the function in them is, which `jaxnst` shows in their place.
_HIDDEN = ("lbfgs", "minimize", "sweep")


class _Package(ModuleType):
    """The package, which imports JAX and the public names when the first of them is asked for.

    So the command line can start, and end at Ctrl-C, before that.
    """

    def __getattr__(self, name: str) -> "Any":
        if name != "__all__" and name.startswith("__"):  # `inspect` and others only look
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name not in _HIDDEN and find_spec(f"{self.__name__}.{name}"):
            return import_module(f"{self.__name__}.{name}")
        public = import_module(f"{self.__name__}.public")
        vars(self).update({name: getattr(public, name) for name in ("__all__", *public.__all__)})
        if name not in vars(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return vars(self)[name]

    def __setattr__(self, name: str, value: "Any") -> None:
        if not (isinstance(value, ModuleType) and name in _HIDDEN):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self.__all__})


sys.modules[__name__].__class__ = _Package
