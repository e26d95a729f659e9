"""Changes chosen modules right after they are imported: for processes that a test starts but cannot reach into."""

import importlib.abc
import importlib.util
import sys


def after_import(patches):
    """Call ``patches[name](module)`` once a module of that name has run; for modules not imported yet."""

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name not in patches:
                return None
            sys.meta_path.remove(self)
            try:
                spec = importlib.util.find_spec(name)
            finally:
                sys.meta_path.insert(0, self)
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                patches[name](module)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())
