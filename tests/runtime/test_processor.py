"""What is known of the processor without asking a compiler agrees with what the compiler says."""

import platform

import pytest
from llvmlite import binding

from convdsl.runtime import processor


def test_lanes_are_those_of_llvm():
    features = binding.get_host_cpu_features()
    expected = 16 if features.get("avx512f") else 8 if features.get("avx") else 4
    assert processor.lanes() == expected


def test_arm_has_short_vectors_and_many_of_them(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert (processor.lanes(), processor.registers()) == (4, 30)


@pytest.mark.parametrize(
    ("features", "lanes", "registers"),
    [
        ("+avx512f,+avx", 16, 32),
        ("+sse2,+avx,-avx512f", 8, 16),
        ("+sse2", 4, 16),
        ("", 4, 16),
    ],
)
def test_numba_may_be_told_to_use_less(features, lanes, registers, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    assert (processor.lanes(), processor.registers()) == (lanes, registers)


def test_without_a_list_of_features_llvm_is_asked(monkeypatch):
    expected = processor.lanes()
    monkeypatch.setattr(processor, "_described", lambda: ())
    assert processor.lanes() == expected
    processor.identity.cache_clear()
    try:
        assert binding.get_host_cpu_name() in processor.identity()
    finally:
        processor.identity.cache_clear()


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("0", 1), ("many", None), ("", None)])
def test_threads_come_from_the_environment(given, threads, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", given)
    assert processor.threads() == (threads or processor.cores())
