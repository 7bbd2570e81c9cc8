"""Finds what is bundled with the package (grammar, networks, sample digits), and the cache folder.

In a checkout `grammars/` and `networks/` lie beside the package, in an installed wheel inside it.
Nothing here parses what it finds.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_PACKAGE = Path(__file__).resolve().parent


def grammar_path(name: str) -> Path:
    """The file of the grammar called `name`, such as `cnn`."""
    return _bundled("grammars") / f"{name}.lark"


def networks_directory() -> Path:
    """The folder of the bundled `.cnn` files."""
    return _bundled("networks")


def network_names() -> tuple[str, ...]:
    """The names of the bundled networks, sorted."""
    return tuple(sorted(path.stem for path in networks_directory().glob("*.cnn")))


def network_path(name: str) -> Path | None:
    """The file of the bundled network `name`, or None; underscores, hyphens and case are ignored.

    >>> network_path("LeNet-5") == network_path("lenet5")
    True
    """
    wanted = _without_spelling(name)
    for known in network_names():
        if _without_spelling(known) == wanted:
            return networks_directory() / f"{known}.cnn"
    return None


def cache_directory() -> Path:
    """The cache folder: ``CONVDSL_CACHE_DIR``, else the platform's for this user; made if missing.

    Raises OSError where it cannot be made or is not this user's alone to write.
    """
    given = os.environ.get("CONVDSL_CACHE_DIR")
    if given:
        return own_directory(Path(given))
    import platformdirs

    try:
        return own_directory(Path(platformdirs.user_cache_dir("convdsl")))
    except RuntimeError as reason:  # there is no home
        raise FileNotFoundError(errno.ENOENT, str(reason)) from None


def own_directory(path: Path) -> Path:
    """A folder to trust with code that is loaded again; made, and for this user alone, if missing.

    Raises OSError where it cannot be made, belongs to someone else or is writable by everybody.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
    if found.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, "everybody may write to it", str(path))
    return path


def digits() -> tuple[np.ndarray, np.ndarray]:
    """40 handwritten digits: uint8 images (40, 28, 28) and their int64 labels (40).

    Any ten in a row are one of each class. Where they come from, and which digits a training set
    has to leave out for them, is in `data/README.md`.
    """
    import numpy as np

    with np.load(_PACKAGE / "data" / "digits.npz") as archive:
        return archive["x"], archive["y"]


def weights_path(name: str) -> Path | None:
    """The file of trained weights of the bundled network `name`, or None.

    How they were trained is in `data/README.md`.
    """
    path = _PACKAGE / "data" / f"{_without_spelling(name)}.safetensors"
    return path if path.is_file() else None


def _bundled(folder: str) -> Path:
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def _without_spelling(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
