"""One line for each request's end: what it tells, and what it never does."""

import logging
from typing import Any

import pytest
from front import CHAT, ask, says
from models import CARD
from scripted import ScriptedPool

BODY = {"model": "demo", "messages": [{"role": "user", "content": "a secret question"}]}


def lines_of(
    caplog: pytest.LogCaptureFixture, method: str, path: str, level: str = "INFO", pool: ScriptedPool | None = None,
    **given: Any
) -> list[logging.LogRecord]:  # fmt: skip
    caplog.set_level(level)
    pool = pool or ScriptedPool(CARD)
    pool.play = pool.play or says("Hello there!")
    ask(pool, method, path, **given)
    return [record for record in caplog.records if record.name == "tokenyard.http.request_log"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_chat_is_one_line_with_its_figures(caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    pool = ScriptedPool(CARD)
    headers = {"x-request-id": "mine", "authorization": "Bearer sk-secret"}
    (line,) = lines_of(caplog, "POST", CHAT, pool=pool, json=BODY | {"stream": stream}, headers=headers)
    fields: dict[str, Any] = line.__dict__["fields"]
    assert line.getMessage().startswith("POST /v1/chat/completions 200 request_id=mine ")
    assert (fields["status"], fields["model"], fields["finish"]) == (200, CARD.names[0], "stop")
    assert fields["prompt_tokens"] == len(pool.jobs[0].request.prompt_ids)
    assert fields["completion_tokens"] > 2
    assert 0 < fields["ttft_s"] <= fields["total_s"]
    assert "secret" not in caplog.text


def test_a_failure_says_its_code_and_a_warning_its_request(caplog: pytest.LogCaptureFixture) -> None:
    pool = ScriptedPool(CARD)
    pool.play = lambda job: job.fail("worker_error")
    (line,) = lines_of(caplog, "POST", CHAT, pool=pool, json=BODY, headers={"x-request-id": "mine"})
    fields = line.__dict__["fields"]
    assert (fields["status"], fields["finish"]) == (500, "worker_error")
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "request mine failed" in warning.getMessage()


def test_what_never_reached_a_model_has_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = lines_of(caplog, "GET", "/v1/a%0Ab")
    assert "GET /v1/a%0Ab 404 request_id=req_" in line.getMessage()
    assert "model" not in line.__dict__["fields"]
    assert line.getMessage().endswith(" finish=not_found")


def test_probes_are_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    assert not lines_of(caplog, "GET", "/health")
    assert len(lines_of(caplog, "GET", "/health", "DEBUG")) == 1
