"""GET /metrics: what moves, and by how much; on one front, on several, and on a pool of real processes."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from front import CHAT, ask, says
from models import CARD
from prometheus_client.parser import text_string_to_metric_families
from scripted import ScriptedPool
from yard import Yard, wait_until

from tokenyard.http.figures import Figures
from tokenyard.http.metrics import FigureFiles, Keeper, exposition

BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


class Samples(dict[tuple[str, ...], float]):
    """Values by name and labels' values, in any order: the text has its labels sorted."""

    def __getitem__(self, key: tuple[str, ...]) -> float:
        return super().__getitem__((key[0], *sorted(key[1:])))


def samples(text: str) -> Samples:
    """All of an exposition."""
    found = Samples()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name.removeprefix("tokenyard_"), *sorted(sample.labels.values()))
            assert key not in found
            found[key] = sample.value
    return found


def status(**load: int) -> dict[str, Any]:
    worker = {"inc": "ab" * 8, "name": "demo on cpu", "models": ["m"], "device": "cpu", "load": load}
    models = {"m": {"queued": 3, "placed": 1, "workers": 1}}
    return {"broker": {"lost_workers": {"m": 2}}, "workers": [worker], "models": models}


def test_requests_and_tokens_are_counted() -> None:
    pool = ScriptedPool(CARD)
    pool.play = says("Hello there!")
    assert ask(pool, "POST", CHAT, json=BODY).status_code == 200
    assert ask(pool, "POST", CHAT, json=BODY | {"messages": 1}).status_code == 400
    ask(pool, "GET", "/made/up")
    response = ask(pool, "GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    found = samples(response.text)
    (job,) = pool.jobs
    name = CARD.names[0]
    num_tokens = found["generation_tokens_total", name]
    assert num_tokens > 2
    assert found["prompt_tokens_total", name] == len(job.request.prompt_ids)
    assert found["request_success_total", name, "stop"] == 1
    assert found["time_to_first_token_seconds_count", name] == 1
    assert found["inter_token_latency_seconds_count", name] == num_tokens - 1
    assert found["e2e_request_latency_seconds_bucket", name, "+Inf"] == 1
    assert found["http_requests_total", "POST", CHAT, "200"] == 1
    assert found["http_requests_total", "POST", CHAT, "400"] == 1
    assert found["http_requests_total", "GET", "none", "404"] == 1
    assert found["broker_up",] == 0


def test_a_stop_string_is_a_stop_and_a_failure_is_none() -> None:
    pool = ScriptedPool(CARD)
    pool.play = says("Hello there!")
    ask(pool, "POST", CHAT, json=BODY | {"stop": "the"})
    pool.play = lambda job: job.fail("queue_full")
    ask(pool, "POST", CHAT, json=BODY | {"n": 2})
    found = samples(ask(pool, "GET", "/metrics").text)
    name = CARD.names[0]
    assert found["request_success_total", name, "stop"] == 1
    assert found["request_failure_total", name, "queue_full"] == 1
    assert found["request_failure_total", name, "cancelled"] == 1
    assert found["e2e_request_latency_seconds_count", name] == 1


def test_workers_are_as_the_broker_sees_them() -> None:
    body = status(running=2, waiting=1, num_blocks=10, free_blocks=4, hit_tokens=16, queried_tokens=32, preempted=5)
    found = samples(exposition(Figures(), body).decode())
    worker = ("abababab", "m", "cpu")
    assert found["broker_up",] == 1
    assert found["num_requests_running", *worker] == 2
    assert found["num_requests_waiting", *worker] == 1
    assert found["kv_cache_usage_perc", *worker] == pytest.approx(0.6)
    assert found["prefix_cache_hits_total", *worker] == 16
    assert found["prefix_cache_queries_total", *worker] == 32
    assert found["num_preemptions_total", *worker] == 5
    assert found["num_requests_queued", "m"] == 3
    assert found["workers", "m"] == 1
    assert found["lost_workers_total", "m"] == 2
    assert not [key for key in found if key[0].startswith("spec_decode")]


def test_what_was_refused_is_told_by_whom_and_why() -> None:
    figures, body = Figures(), status(refused_user=2)
    figures.count("refused_messages", "front", "malformed")
    body["broker"]["refused"] = {"identity": 3}
    found = samples(exposition(figures, body).decode())
    assert found["refused_messages_total", "front", "malformed"] == 1
    assert found["refused_messages_total", "broker", "identity"] == 3
    assert found["refused_messages_total", "worker abababab", "user"] == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"broker": {}, "workers": [{"inc": "ab" * 8}], "models": {"m": {}}},
        {"workers": [{"inc": "ab" * 8, "models": [], "load": {"num_blocks": 5, "of_tomorrow": 1}}], "of_tomorrow": 1},
    ],
)
def test_a_broker_of_another_version_may_tell_less_or_more(body: dict[str, Any]) -> None:
    assert samples(exposition(Figures(), body).decode())["broker_up",] == 1


def test_any_front_answers_for_all(tmp_path: Path) -> None:
    figures = Figures()
    figures.count("prompt_tokens", "m", by=3)
    FigureFiles(tmp_path, 1).save(figures.dump())
    (tmp_path / "figures-2.json").write_text('{"counts": 1}')
    here = FigureFiles(tmp_path, 0)
    for _ in range(2):
        here.save(figures.dump())
        assert here.merged(figures.dump()).counts["prompt_tokens"]["m",] == 6


def test_a_restarted_front_goes_on(tmp_path: Path) -> None:
    async def live() -> int:
        figures = Figures()
        keeper = Keeper(FigureFiles(tmp_path, 0), figures)
        await keeper.start()
        figures.count("prompt_tokens", "m", by=3)
        await keeper.close()
        return figures.counts["prompt_tokens"]["m",]

    assert [asyncio.run(live()) for _ in range(3)] == [3, 6, 9]


@pytest.mark.slow
def test_the_figures_of_a_real_pool_move(server: Yard) -> None:
    def read() -> Samples:
        return samples(httpx.get(f"{server.url}/metrics").raise_for_status().text)

    def grew(name: str, before: Samples, after: Samples) -> float:
        return sum(value - before.get(key, 0) for key, value in after.items() if key[0] == name)

    before = read()
    body = {
        "model": "tokenyard-demo",
        "prompt": "The quick brown fox. " * 20,
        "max_tokens": 20,
        "ignore_eos": True,
    }
    used = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status().json()["usage"]
    wait_until(lambda: grew("worker_generation_tokens_total", before, read()) >= 20, "a beat that tells of the tokens")
    after = read()
    assert grew("request_success_total", before, after) == 1
    assert grew("prompt_tokens_total", before, after) == used["prompt_tokens"]
    assert grew("generation_tokens_total", before, after) == grew("worker_generation_tokens_total", before, after) == 20
    assert grew("inter_token_latency_seconds_count", before, after) == 19
    assert grew("prefix_cache_queries_total", before, after) == used["prompt_tokens"]
    assert grew("http_requests_total", before, after) >= 2
    assert after["broker_up",] == 1
    assert grew("workers", Samples(), after) == 1
    assert grew("device_memory_bytes", Samples(), after) > 50 << 20
