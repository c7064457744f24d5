"""How long a step may honestly last: what is longer means that the engine hangs, says the broker (broker/progress.py).

A long prompt on a slow processor is no hang, so each step is given time by how many tokens it computes, and by how long
these took lately or, before that is known, by how slow a device can be at all.
"""

STEP_S = 60.0
"""For a step by itself, whatever it computes: vLLM gives an iteration as long (VLLM_ENGINE_ITERATION_TIMEOUT_S)."""
MARGIN = 10.0
"""Times what a token took lately: attention over 32,000 tokens made a 60M model's prompt tokens some 6 times as slow as
over 100, and others may use the machine, too."""
SLOWEST_FLOPS = {"cpu": 1e9}
SLOWEST_DEVICE_FLOPS = 1e12
"""Operations per second of the slowest device that is of use: a tenth of what one core does in float32, and a hundredth
of what a GPU of 2020 does."""


class Patience:
    """Of one engine."""

    def __init__(self, num_params: int, device_type: str, step_s: float = STEP_S) -> None:
        self._step_s = step_s
        self._first_token_s = 2 * num_params / SLOWEST_FLOPS.get(device_type, SLOWEST_DEVICE_FLOPS)

    def of(self, num_tokens: int, token_s: float | None) -> float:
        """For a step that computes so many tokens; `token_s`: what one took lately, None where that is not known."""
        return self._step_s + num_tokens * (self._first_token_s if token_s is None else MARGIN * token_s)
