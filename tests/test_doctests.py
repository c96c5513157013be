"""The examples in docstrings run and are right."""

import doctest
import importlib
import pkgutil

import pytest

import jaxnst

MODULES = [
    info.name
    for info in pkgutil.walk_packages(jaxnst.__path__, "jaxnst.")
    if info.name != "jaxnst.__main__"
]


@pytest.mark.parametrize("name", ["jaxnst", *MODULES])
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    for example in doctest.DocTestFinder().find(module):
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
