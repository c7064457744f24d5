"""How long a step may honestly last: what is longer means that the engine hangs, says the broker (broker/progress.py).

A long prompt on a slow processor is no hang, so each step is given time by how many tokens it computes, and by how long
these took lately or, before that is known, by how slow a device can be at all.
"""

STEP_S = 60.0
"""For a step by itself, whatever it computes: vLLM gives an iteration as long (VLLM_ENGINE_ITERATION_TIMEOUT_S)."""
MARGIN = 10.0
"""Times what a token took lately: in Qwen3-0.6B attention to 32,000 tokens takes 6 times what a token's
weights do, and others may use the machine, too."""
SLOWEST_FLOPS = {"cpu": 1e9}
SLOWEST_DEVICE_FLOPS = 1e12
"""Operations per second below which a device is of no use: a tenth or less of what a core, or a GPU, does."""


class Patience:
    """Of one engine."""

    def __init__(self, num_params: int, device_type: str, step_s: float = STEP_S) -> None:
        self._step_s = step_s
        self._first_token_s = 2 * num_params / SLOWEST_FLOPS.get(device_type, SLOWEST_DEVICE_FLOPS)

    def of(self, num_tokens: int, token_s: float | None) -> float:
        """For a step that computes so many tokens; `token_s`: what one took lately, None where that is not known."""
        return self._step_s + num_tokens * (self._first_token_s if token_s is None else MARGIN * token_s)
