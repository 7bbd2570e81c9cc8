"""Loads compiled kernels: relocatable objects become functions, without a compiler at hand.

An object is what LLVM writes: under Linux on x86-64 and AArch64 an ELF file whose code, made for
any distance, asks for little but absolute addresses. Placing it takes a few lines here, and neither
the time nor the memory that importing a compiler does. All others are left to LLVM's own loader.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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


# -- the Executable and Linkable Format: System V ABI, and its machines' supplements ------------

_MAGIC = b"\x7fELF\x02\x01"
"""What 64-bit little-endian files begin with."""
_CONTENT, _SYMBOLS, _RELOCATIONS, _ZEROS = 1, 2, 4, 8
"""Types of sections. Those that only unwinding and debuggers read have others."""
_LOADED = 2
"""The flag of sections that are there at run time."""
_COMMON = 0xFFF2
"""The section of symbols that want some zeros, which here they share: nothing is done with them."""
_ROOM_FOR_COMMON = 64
"""Bytes of them."""
_ABSENT = 0
"""The section of symbols that the object does not define."""


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


@dataclass
class _Image:
    """What will be at an address: all sections, and then what leads to far functions."""

    base: int
    bytes: bytearray
    veneers: dict[int, int] = field(default_factory=dict)

    def put(self, format: str, where: int, value: int) -> None:
        """Write a number at an address."""
        struct.pack_into(format, self.bytes, where - self.base, value)

    def fill(self, where: int, value: int, bits: int, shift: int) -> None:
        """Write so many bits of a number into the instruction at an address."""
        (word,) = struct.unpack_from("<I", self.bytes, where - self.base)
        mask = (1 << bits) - 1
        self.put("<I", where, word & ~(mask << shift) | (value & mask) << shift)

    def veneer(self, target: int) -> int:
        """The address of code near by that goes to a function."""
        if target not in self.veneers:
            self.veneers[target] = self.base + len(self.bytes)
            self.bytes += _VENEER.pack(*_TO_ADDRESS, target)
        return self.veneers[target]


def _load_elf(content: bytes) -> int:
    write = _writer(content)
    sections = _sections(content)
    symbols = _symbols(content, sections)
    offsets, size = _layout(sections)
    most = size + _VENEER.size * sum(s.section == _ABSENT for s in symbols)
    image = _Image(_reserve(most), bytearray(size))
    places = {number: image.base + offset for number, offset in offsets.items()}
    places[_COMMON] = image.base + size - _ROOM_FOR_COMMON
    for number, offset in offsets.items():
        image.bytes[offset : offset + sections[number].size] = _bytes(content, sections[number])
    for relocation in _relocations(content, sections):
        if relocation.section in places:
            _relocate(image, relocation, symbols[relocation.symbol], places, write)
    ctypes.memmove(image.base, bytes(image.bytes), len(image.bytes))
    _make_executable(image.base, most)
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
    image: _Image, asked: _Relocation, symbol: _Symbol, places: dict[int, int], write: _Writer
) -> None:
    """Write an address that the code asks for into it."""
    # The value of a common symbol is its alignment.
    value = 0 if symbol.section == _COMMON else symbol.value
    inside = symbol.section in places
    target = asked.addend + (places[symbol.section] + value if inside else _address_of(symbol.name))
    write(image, asked.type, places[asked.section] + asked.at, target, inside)


_Writer = Callable[[_Image, int, int, int, bool], None]
"""Writes, by the type of a relocation, at an address that of a target, inside the image or not."""


def _write_x86(image: _Image, type: int, where: int, target: int, inside: bool) -> None:
    if type == 1:
        image.put("<Q", where, target)
    elif type in (2, 4) and inside:  # how far it is, and how far a function is
        image.put("<i", where, target - where)
    else:
        raise _Foreign


_VENEER = struct.Struct("<IIQ")
_TO_ADDRESS = 0x58000050, 0xD61F0200
"""`ldr x16, .+8; br x16`, and the address: AArch64's calls reach 128 MiB and no farther."""


def _write_arm(image: _Image, type: int, where: int, target: int, inside: bool) -> None:
    if type == 257:
        image.put("<Q", where, target)
    elif type == 260:  # how far it is
        image.put("<q", where, target - where)
    elif 263 <= type <= 269:  # 16 bits of it, for a move: two types for each
        image.fill(where, target >> (type - 263) // 2 * 16, 16, 5)
    elif type in (282, 283):  # a jump, a call
        near = target if inside else image.veneer(target)
        image.fill(where, (near - where) >> 2, 26, 0)
    else:
        raise _Foreign


_WRITERS: dict[int, _Writer] = {62: _write_x86, 183: _write_arm}
"""By the machine's number."""


def _writer(content: bytes) -> _Writer:
    """What knows the relocations of the object's machine."""
    if content[:6] != _MAGIC:
        raise _Foreign
    (machine,) = struct.unpack_from("<H", content, 18)
    # There, Linux lets the processor know of code where memory becomes executable; others may not.
    unsure = machine == 183 and sys.platform != "linux"
    if machine not in _WRITERS or unsure:
        raise _Foreign
    return _WRITERS[machine]


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
