"""From a graph to steps over buffers: what runs in which order on which memory."""

from convdsl.plan.model import Buffer, Call, Kernel, Plan, Port, Recipe, Step, Target
from convdsl.plan.planner import plan

__all__ = ["Buffer", "Call", "Kernel", "Plan", "Port", "Recipe", "Step", "Target", "plan"]
