"""When work that makes a model quicker may be done between two of its steps, so that streams hardly notice.

Such work comes in pieces, none of which can be cut short. Told what the engine has to do and how long the pieces last;
knows no clock and no model.
"""

from enum import Enum, auto

HEAD_START_S = 2.0
"""Whoever asked for the model gets the first tokens before anything else takes its time."""
MOST_SHARE = 0.2
"""Of the time in which streams run: a piece makes one gap of theirs longer, and all together come a quarter later."""
PATIENCE_S = 2.0
"""Where first tokens are waited for all the time, as under a full queue, a piece comes so seldom: it must come one day,
as steps are slower without."""


class Demand(Enum):
    """What an engine has to do."""

    NOTHING = auto()
    STREAMS = auto()
    """It has sequences, and all of them flow."""
    PROMPTS = auto()
    """Somebody waits for a first token, or for the next one after a fault."""


class Leisure:
    """Of one engine."""

    def __init__(self, began_s: float) -> None:
        """`began_s`: when the model was ready to serve."""
        self._head_start_s = began_s + HEAD_START_S
        self._ended_s = began_s
        self._lasted_s = 0.0

    def due_s(self, demand: Demand) -> float:
        """When the next piece may be done, if the engine has this to do until then."""
        if demand is Demand.NOTHING:
            return self._head_start_s
        pause_s = self._lasted_s * (1 - MOST_SHARE) / MOST_SHARE
        if demand is Demand.PROMPTS:
            pause_s = max(pause_s, PATIENCE_S)
        return max(self._head_start_s, self._ended_s + pause_s)

    def did(self, began_s: float, ended_s: float) -> None:
        """A piece was done in this time."""
        self._ended_s, self._lasted_s = ended_s, ended_s - began_s
