"""Training in several processes at once: how they find each other, agree on every step and stay equal."""

from amortvi.training.distributed.group import ALONE, Group, Place, join
from amortvi.training.distributed.synchronization import Synchronization, describe_call

__all__ = ["ALONE", "Group", "Place", "Synchronization", "describe_call", "join"]
