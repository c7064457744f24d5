"""The lane that runs a loaded model, by its verdict."""

from tokenyard.workers.lane import Lane
from tokenyard.workers.model import LoadedModel
from tokenyard.workers.paged import PagedLane
from tokenyard.workers.plain import PlainLane, PlainModel


def make_lane(model: LoadedModel) -> Lane:
    """A fresh lane, with no sequence in it."""
    if model.verdict.lane == "plain":
        return PlainLane(PlainModel(model.model, model.verdict.way))
    return PagedLane(model)
