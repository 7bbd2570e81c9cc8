"""What a network costs and sees, counted on its graph; holds `expect` clauses against it."""

from convdsl.analysis.connectivity import Connectivity, connectivity
from convdsl.analysis.costs import Analysis, Costs, analyse
from convdsl.analysis.expectations import verify
from convdsl.analysis.receptive_field import Field, Reach, receptive_fields

__all__ = [
    "Analysis",
    "Connectivity",
    "Costs",
    "Field",
    "Reach",
    "analyse",
    "connectivity",
    "receptive_fields",
    "verify",
]
