"""What a file defines and imports: its blocks, networks and top-level values by name."""

from __future__ import annotations
