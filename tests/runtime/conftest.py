"""What tests of compiling share: caches of their own, counting, and a GPU."""

import pytest


@pytest.fixture
def forget(monkeypatch):
    """A function after which nothing is known but what is on disk, as in a new process."""
    from convdsl.runtime import cache

    def clear():
        cache.folder.cache_clear()
        monkeypatch.setattr(cache, "_loaded", {})

    yield clear
    cache.folder.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch, forget):
    """The folder of kernels of an empty cache."""
    from convdsl.runtime import cache

    monkeypatch.setenv("CONVDSL_CACHE_DIR", str(tmp_path / "cache"))
    forget()
    return cache.folder()


@pytest.fixture
def compilations(monkeypatch):
    """The names of the kernels that this process compiles."""
    from convdsl.runtime import cache

    names = []
    original = cache.emitted

    def emitted(kernel):
        names.append(kernel.name)
        return original(kernel)

    monkeypatch.setattr(cache, "emitted", emitted)
    return names


@pytest.fixture
def gpu(request, monkeypatch):
    """A GPU that is emulated, working late unless a test says how."""
    from emulated_driver import EmulatedDriver

    from convdsl.runtime import cuda_compilation, driver

    found = EmulatedDriver(working=getattr(request, "param", "late"))
    monkeypatch.setattr(driver, "binding", lambda: found)
    monkeypatch.setattr(cuda_compilation, "load", found.load)
    return found
