"""Claude Code's first request: taken as it is, and what becomes of it."""

from anthropic.types import RawMessageStreamEvent
from claude_code import HEADERS, PATH, REQUEST
from front import ask, says, typed_events
from models import CARD, demo_tokenizer
from scripted import ScriptedPool
from strict import validated


def test_the_first_request_is_answered() -> None:
    pool = ScriptedPool(CARD)
    pool.play = says("</think>\n\nHello there.")
    response = ask(pool, "POST", PATH, headers=HEADERS, json=REQUEST)
    assert response.status_code == 200, response.text
    events = [event for event in typed_events(response) if event["type"] != "ping"]
    for event in events:
        validated(RawMessageStreamEvent, event)
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "Hello there."
    assert events[-2]["delta"]["stop_reason"] == "end_turn"


def test_its_prompt() -> None:
    pool = ScriptedPool(CARD)
    pool.play = says("Hello.")
    ask(pool, "POST", PATH, headers=HEADERS, json=REQUEST)
    (job,) = pool.jobs
    prompt = demo_tokenizer().backend.decode(job.request.prompt_ids, skip_special_tokens=False)
    system, _, rest = prompt.partition("# Tools")
    assert system == (
        "<|im_start|>system\nYou are an agent.\n\nYou help users with software.\n"
        "Available agent types for the Agent tool:\n- claude: for any task.\n\n"
    )
    assert prompt.endswith("</system-reminder>\n\n\nSay hello.<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert all(f'"name": "{name}"' in rest for name in ("Agent", "ReportFindings"))
    # It always asks for 32,000 tokens; here is room for fewer.
    assert job.request.params.max_tokens == CARD.context_length - len(job.request.prompt_ids)
