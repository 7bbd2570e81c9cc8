"""What tests of compiling share: caches of their own, and counting."""

import os
import shutil

import pytest

SHARED = os.environ["CONVDSL_CACHE_DIR"]


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
def launcher(folder, monkeypatch, forget):
    """Puts the launcher into the cache, for compiling it takes long and is not what is tested."""
    from convdsl.runtime import cache

    with monkeypatch.context() as patch:
        patch.setenv("CONVDSL_CACHE_DIR", SHARED)
        forget()
        cache.launcher()
        path = cache._Entry("launch", cache._launcher_source()[1]).path
    forget()
    if path.exists():
        shutil.copy(path, folder)


@pytest.fixture
def compilations(monkeypatch):
    """The names of the kernels that this process compiles."""
    from numba.core.ccallback import CFunc

    names = []
    original = CFunc._compile_uncached

    def compile_uncached(self):
        names.append(self.__name__)
        return original(self)

    monkeypatch.setattr(CFunc, "_compile_uncached", compile_uncached)
    return names
