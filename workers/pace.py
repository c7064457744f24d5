"""How many prompt tokens the next step may take, so that a long prompt does not stall the streams that run.

Told what each step computed and how long it lasted; knows no clock, no sequence and no model. Two things are estimated:
what a step lasts that only decodes, by how many it decodes, and what a prompt token adds to it. Both are medians of the
last few steps, so that one slow step, whoever caused it, moves neither.
"""

from collections import deque
from statistics import median
from typing import NamedTuple

CALM_STEPS = 3.0
"""A step with prompts should last no longer than so many that only decode. A running stream is to wait for at most 4
of its median gaps (docs/performance.md); the fourth is for what others do on the machine meanwhile."""
STALLED_STEP_S = 0.1
"""While streams stand still until they are computed anew, because their worker died or their blocks were taken, the
others may wait so long: a fifth of what a fault may cost a stream (docs/reliability.md)."""
WINDOW = 9
"""Steps that an estimate is made of: 4 of them may be outliers; 9 chunks of a prompt differ little in their context."""
ENOUGH = 3
"""Steps from which an estimate counts: one of them may be an outlier."""


class Work(NamedTuple):
    """What one step computed."""

    num_decodes: int
    num_prompt_tokens: int


class Pace:
    """The estimates of one engine, and the budget that follows from them."""

    def __init__(self, max_tokens: int, min_tokens: int) -> None:
        """`max_tokens`: the budget where nothing is to be spared; `min_tokens`: what prompts always get, to go on."""
        assert 0 < min_tokens <= max_tokens
        self._max_tokens = max_tokens
        self._min_tokens = min_tokens
        self._decode_s: dict[int, deque[float]] = {}
        """Durations of steps that only decoded, by the binary digits of how many they decoded: 1, 2-3, 4-7, ..."""
        self._token_s: deque[float] = deque(maxlen=WINDOW)
        """What each prompt token added, in steps with at least `min_tokens` of them: fewer tell only of the step."""

    def learn(self, work: Work, seconds: float) -> None:
        """A step has done this work in this time. Where nothing decoded, prompts bear the step's own cost."""
        if work.num_prompt_tokens == 0:
            self._decode_s.setdefault(work.num_decodes.bit_length(), deque(maxlen=WINDOW)).append(seconds)
        elif work.num_prompt_tokens >= self._min_tokens:
            own_s = self._calm_s(work.num_decodes) or 0.0
            self._token_s.append(max(0.0, seconds - own_s) / work.num_prompt_tokens)

    def budget(self, num_decodes: int, stalled: bool = False) -> int:
        """Prompt tokens for a step with so many decodes; `stalled`: some of them are of a stream that stands still.

        All that fit where there are none, and as long as no step has only decoded: no stream has a rhythm then.
        """
        calm_s, token_s = self._calm_s(num_decodes), self.token_s
        if calm_s is None or token_s is None:
            return self._max_tokens
        spare_s = (CALM_STEPS - 1) * calm_s
        if stalled:
            spare_s = max(spare_s, STALLED_STEP_S - calm_s)
        if spare_s >= token_s * self._max_tokens:
            return self._max_tokens
        return max(self._min_tokens, int(spare_s / token_s))

    @property
    def token_s(self) -> float | None:
        """What a prompt token adds to a step; None as long as too few were seen."""
        return median(self._token_s) if len(self._token_s) >= ENOUGH else None

    def _calm_s(self, num_decodes: int) -> float | None:
        """What a step of so many decodes lasts by itself; where that is not known, one of fewer, else of more."""
        known = [digits for digits, times_s in self._decode_s.items() if len(times_s) >= ENOUGH]
        if not known or not num_decodes:
            return None
        digits = num_decodes.bit_length()
        nearest = max((one for one in known if one <= digits), default=min(known))
        return median(self._decode_s[nearest])
