"""The variables of a program: first values, reading and writing, safetensors files."""

from __future__ import annotations

import math
import os
import secrets
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from convdsl.diagnostics import CompileError, Diagnostic, did_you_mean, problem
from convdsl.graph import Graph, Initialiser, Variable

Array = np.ndarray


DRAWN = 1 << 22
"""Elements that one generator draws; a larger array has several, which draw side by side."""


def initial(variables: Iterable[Variable], seed: int) -> dict[str, Array]:
    """The first values of variables by name: functions of the seed and the variable's name alone.

    So adding a layer changes no other layer's weights.
    """
    arrays: dict[str, Array] = {}
    with ThreadPoolExecutor() as pool:
        drawn: list[Future[None]] = []
        for variable in variables:
            arrays[variable.name] = array = np.empty(
                variable.type.with_batch(1), variable.type.dtype
            )
            scheme = variable.initialiser or Initialiser("zeros")
            key = [seed, zlib.crc32(variable.name.encode())]
            if scheme.scheme == "orthogonal":
                array[...] = _orthogonal(np.random.default_rng(key), array.shape)
                continue
            flat = array.reshape(-1)
            for number, start in enumerate(range(0, flat.size, DRAWN)):
                part = flat[start : start + DRAWN]
                drawn.append(pool.submit(_fill, part, scheme, [*key, number]))
        for future in drawn:
            future.result()
    return arrays


def _fill(array: Array, scheme: Initialiser, key: list[int]) -> None:
    """Set the elements, one by one, as the scheme says."""
    if scheme.scheme in ("zeros", "ones", "constant"):
        array[...] = {"zeros": 0, "ones": 1}.get(scheme.scheme, scheme.amount)
        return
    random = np.random.default_rng(key)
    if scheme.scheme == "signs":
        array[...] = random.integers(0, 2, array.size, np.int8) * 2 - 1
    elif scheme.scheme == "uniform":
        random.random(dtype=np.float32, out=array)
        # From [0, 1), so that the bounds are kept.
        array *= 2 * scheme.amount
        array -= scheme.amount
    else:
        random.standard_normal(dtype=np.float32, out=array)
        array *= scheme.amount


def _orthogonal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A matrix of the first axis by the rest, orthonormal along the shorter side."""
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(random.standard_normal((max(rows, columns), min(rows, columns))))
    # The signs of r's diagonal make the distribution uniform (Mezzadri 2007).
    q = q * np.sign(np.diag(r))
    return (q if rows >= columns else q.T).reshape(shape).astype(np.float32)


def read(path: str | Path) -> dict[str, Array]:
    """The arrays of a safetensors file. Raises CompileError E503 where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if path.is_dir():
        raise problem("E503", f"{path} is a directory, not a safetensors file")
    try:
        return load_file(path)
    except FileNotFoundError:
        raise problem("E503", f"there is no weights file {path}") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as reason:
        raise problem(
            "E503",
            f"{path} cannot be read as safetensors: {str(reason).strip() or 'damaged'}",
            "weights files are written by `save` or by the safetensors library",
        ) from None


UNFINISHED = ".convdsl.tmp"
"""What the names of files end with that are being written."""


def metadata(path: str | Path) -> dict[str, str]:
    """The texts that a safetensors file holds beside its arrays."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return dict(file.metadata() or {})


def write(
    path: str | Path, arrays: Mapping[str, Array], texts: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whole: it is complete or not there. Raises CompileError E504."""
    from safetensors.numpy import save

    content = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    write_bytes(path, save(content, dict(texts) if texts else None))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole: it is complete or as it was. Raises CompileError E504."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file whole: it is complete or as it was. Raises CompileError E504."""
    path = Path(path)
    # Opened plainly, not by tempfile, whose files nobody else may read.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or a crash of the machine could leave an empty file
        unfinished.replace(path)
    except OSError as reason:
        with suppress(OSError):
            unfinished.unlink()
        raise problem("E504", f"{path} cannot be written: {reason.strerror}") from None


INPUT_MEAN = "input.mean"
"""What weights files call the mean that is taken off the input; no parameter can be called so."""


def check_update(graph: Graph, arrays: Mapping[str, Array]) -> None:
    """Raise CompileError E505 where names or shapes are not those of the network."""
    known = {v.name: v for v in (*graph.parameters, *graph.buffers)}
    if len(graph.inputs) == 1:
        known[INPUT_MEAN] = graph.inputs[0]
    found: list[Diagnostic] = []
    for name, array in arrays.items():
        if name not in known:
            found.append(
                Diagnostic(
                    "E505",
                    f"`{graph.name}` has no parameter `{name}`",
                    help=did_you_mean(name, known),
                )
            )
            continue
        expected, actual = known[name].type.shape, np.shape(array)
        if expected != actual:
            message = f"`{name}` has shape {list(expected)}, the given array {list(actual)}"
            found.append(Diagnostic("E505", message))
        elif np.asarray(array).dtype.kind not in "fiu":
            message = f"`{name}` holds float32, the given array {np.asarray(array).dtype}"
            found.append(Diagnostic("E505", message))
    if found:
        raise CompileError(found[:10])


def check_state(graph: Graph, arrays: Mapping[str, Array]) -> None:
    """Raise CompileError E505 where arrays are not the state that the graph's optimiser keeps."""
    wanted = {v.name: v.type.shape for v in graph.role("state")}
    given = {name: np.shape(array) for name, array in arrays.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            message = f"the state `{name}` is not that of `{graph.name}` with this optimiser"
            raise problem("E505", message)


def check_complete(graph: Graph, names: Iterable[str], path: str | Path) -> None:
    """Raise CompileError E505 where a weights file lacks some of the network's variables."""
    given = set(names)
    lacking = [v.name for v in (*graph.parameters, *graph.buffers) if v.name not in given]
    if lacking:
        shown = ", ".join(f"`{n}`" for n in lacking[:5]) + (", …" if len(lacking) > 5 else "")
        raise problem("E505", f"{path} lacks {len(lacking)} of the parameters: {shown}")
