"""What people look at: the summary table, drawings, pages about ops and diagnostic codes."""

from convdsl.views.summary import Layer, Summary, summarise

__all__ = ["Layer", "Summary", "summarise"]
