"""Memory while a plan is made: what values share, before anything has an address."""

from __future__ import annotations

from dataclasses import dataclass, field

from convdsl.graph import Value, Variable
from convdsl.plan.model import ITEM_SIZE


@dataclass(eq=False)
class Storage:
    """Memory that a value, its views and what replaces it in place share.

    A part lies in the images of a ``whole``, which is none itself, from element ``start`` of each.
    """

    name: str
    elements: int
    dtype: str
    variable: Variable | None = None
    constant: bool = False
    whole: Storage | None = None
    start: int = 0
    batch: int = 1
    first: int = 0
    last: int = -1
    values: list[Value] = field(default_factory=list)
    """The values that live, or have lived, here."""
    parts: list[Storage] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return self.elements * ITEM_SIZE[self.dtype]

    @property
    def root(self) -> Storage:
        """What has memory of its own: the whole of a part."""
        return self.whole or self

    @property
    def image(self) -> int:
        """How many elements an image of a part lies from the next; 0 where they are contiguous."""
        return self.whole.elements // self.batch if self.whole and self.batch > 1 else 0

    def part(self, name: str, elements: int, start: int, batch: int) -> Storage:
        """The storage of so many elements in all images, from element ``start`` of each."""
        root = self.root
        made = Storage(name, elements, self.dtype, None, False, root, self.start + start, batch)
        root.parts.append(made)
        return made

    @property
    def overlapping(self) -> list[Storage]:
        """The storages that share memory with this one, itself among them."""
        if self.whole is None:
            return [self, *self.parts]
        end = self.start + self.elements // self.batch
        return [
            self.whole,
            *(
                other
                for other in self.whole.parts
                if other.start < end and self.start < other.start + other.elements // other.batch
            ),
        ]
