"""Loads compiled kernels: relocatable objects become functions, without a compiler at hand.

An object is what LLVM writes: on x86-64 under Linux an ELF file whose code, made for any distance,
asks for little but absolute addresses. Placing it takes a few lines here, and neither the time nor
the memory that importing a compiler does. All others are left to LLVM's own loader.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

ENTRY = "kernel"
"""The name of the function that an object is loaded for."""


class _Foreign(Exception):
    """The object is of another kind, or asks for something that is not known here."""


def load(content: bytes) -> int:
    """The address of an object's `ENTRY`."""
    try:
        return _load_elf(content)
    except _Foreign:
        return _load_by_llvm(content)


# -- the Executable and Linkable Format: System V ABI, AMD64 supplement ------------------------

_MAGIC = b"\x7fELF\x02\x01"
"""What 64-bit little-endian files begin with."""
_X86_64 = 62
_CONTENT, _SYMBOLS, _RELOCATIONS, _ZEROS = 1, 2, 4, 8
"""Types of sections. Those that only unwinding and debuggers read have others."""
_LOADED = 2
"""The flag of sections that are there at run time."""
_COMMON = 0xFFF2
"""The section of symbols that want some zeros, which here they share: nothing is done with them."""
_ROOM_FOR_COMMON = 64
"""Bytes of them."""
_ADDRESS, _DISTANCE, _DISTANCE_OF_FUNCTION = 1, 2, 4
"""Relocations: 64 bits of an address, and 32 bits of how far it is."""


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


class _Relocation(NamedTuple):
    section: int
    at: int
    type: int
    symbol: int
    addend: int


def _load_elf(content: bytes) -> int:
    if content[:6] != _MAGIC or struct.unpack_from("<H", content, 18) != (_X86_64,):
        raise _Foreign
    sections = _sections(content)
    symbols = _symbols(content, sections)
    offsets, size = _layout(sections)
    base = _reserve(size)
    places = {number: base + offset for number, offset in offsets.items()}
    places[_COMMON] = base + size - _ROOM_FOR_COMMON
    image = bytearray(size)
    for number, offset in offsets.items():
        image[offset : offset + sections[number].size] = _bytes(content, sections[number])
    for relocation in _relocations(content, sections):
        if relocation.section in places:
            _relocate(image, base, relocation, symbols[relocation.symbol], places)
    ctypes.memmove(base, bytes(image), size)
    _make_executable(base, size)
    return next(places[s.section] + s.value for s in symbols if s.name == ENTRY)


def _sections(content: bytes) -> list[_Section]:
    (start,) = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    made = struct.Struct("<IIQQQQIIQQ")
    return [_Section(*made.unpack_from(content, start + size * k)) for k in range(count)]


def _bytes(content: bytes, section: _Section) -> bytes:
    if section.type == _ZEROS:
        return bytes(section.size)
    return content[section.offset : section.offset + section.size]


def _symbols(content: bytes, sections: list[_Section]) -> list[_Symbol]:
    table = next(s for s in sections if s.type == _SYMBOLS)
    names = _bytes(content, sections[table.link])
    return [
        _Symbol(names[name : names.index(b"\0", name)].decode(), section, value)
        for name, _, _, section, value, _ in struct.iter_unpack("<IBBHQQ", _bytes(content, table))
    ]


def _layout(sections: list[_Section]) -> tuple[dict[int, int], int]:
    """Where the sections of run time lie, by number, and the size of all, in bytes."""
    offsets = {}
    end = 0
    for number, section in enumerate(sections):
        if section.flags & _LOADED and section.type in (_CONTENT, _ZEROS):
            end += -end % max(section.alignment, 1)
            offsets[number] = end
            end += section.size
    return offsets, end + -end % 8 + _ROOM_FOR_COMMON


def _relocations(content: bytes, sections: list[_Section]) -> Iterator[_Relocation]:
    for table in sections:
        if table.type == _RELOCATIONS:
            for at, what, addend in struct.iter_unpack("<QQq", _bytes(content, table)):
                yield _Relocation(table.info, at, what & 0xFFFFFFFF, what >> 32, addend)


def _relocate(
    image: bytearray, base: int, asked: _Relocation, symbol: _Symbol, places: dict[int, int]
) -> None:
    """Write an address that the code asks for into it."""
    # The value of a common symbol is its alignment.
    value = 0 if symbol.section == _COMMON else symbol.value
    inside = symbol.section in places
    target = asked.addend + (places[symbol.section] + value if inside else _address_of(symbol.name))
    where = places[asked.section] + asked.at
    if asked.type == _ADDRESS:
        struct.pack_into("<Q", image, where - base, target)
    elif asked.type in (_DISTANCE, _DISTANCE_OF_FUNCTION) and inside:
        struct.pack_into("<i", image, where - base, target - where)
    else:
        raise _Foreign


@cache
def _address_of(name: str) -> int:
    """The address of a function of the C library, of which Python itself makes use."""
    try:
        found = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        raise _Foreign from None
    return ctypes.cast(found, ctypes.c_void_p).value or 0


def _reserve(size: int) -> int:
    """The address of so many bytes of memory, which stay for as long as the process."""
    library = ctypes.CDLL(None)
    library.mmap.restype = ctypes.c_void_p
    kinds = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    access = mmap.PROT_READ | mmap.PROT_WRITE
    where = library.mmap(None, ctypes.c_size_t(size), access, kinds, -1, ctypes.c_long(0))
    if where in (None, ctypes.c_void_p(-1).value):
        raise MemoryError
    return int(where)


def _make_executable(base: int, size: int) -> None:
    """Let memory be read and run, and no longer written."""
    access = mmap.PROT_READ | mmap.PROT_EXEC
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(base), ctypes.c_size_t(size), access) != 0:
        raise _Foreign


# -- everything else ---------------------------------------------------------------------------


def _load_by_llvm(content: bytes) -> int:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(content))
    engine.finalize_object()
    address = int(engine.get_function_address(ENTRY))
    engine.detach()  # it stays for as long as the process
    return address
