"""POST /v1/systemone over scripted workers: shapes, and refusals as `transformers serve` words them."""

from typing import Any

import pytest
from front import decides, post
from transformers.cli.serving.systemone import SystemOneRequest as Theirs

from tokenyard.broker.params import Params
from tokenyard.http.decisions.systemone import SystemOneRequest

PATH = "/v1/systemone"
NOUL = {"type": "noul", "instructions": "Is it spam?"}
CHOICE = {"type": "choice", "instructions": "Tone?", "criteria": {"calm": None, "pushy": "hard sell"}}
SCORE = {"type": "score", "instructions": "Urgent?", "criteria": ["no", "soon", "now"]}
BODY: dict[str, Any] = {"model": "demo", "state": "WIN!", "questions": {"a": NOUL, "b": CHOICE, "c": SCORE}}


def test_each_type_of_question_has_its_answer() -> None:
    response, jobs = post(PATH, BODY, decides(0.25, 0.75, 1.0))
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["model"] == "demo"
    answers = body["answers"]
    assert list(answers) == ["a", "b", "c"]
    assert answers["a"] == {"type": "noul", "noul": pytest.approx(0.25)}
    assert answers["b"]["choice"] == "pushy"
    assert answers["b"]["confidence"] == pytest.approx(0.5)
    assert answers["b"]["probabilities"] == pytest.approx({"calm": 0.25, "pushy": 0.75})
    assert answers["c"]["legend"] == {"0": "no", "1": "soon", "2": "now"}
    assert answers["c"]["score"] == pytest.approx((0.75 + 2) / 2)
    assert [job.request.kind for job in jobs] == ["score"] * 3
    assert all(job.request.params == Params(0, score_ids=job.request.params.score_ids) for job in jobs)
    assert body["usage"] == {"input_tokens": sum(len(job.request.prompt_ids) for job in jobs), "output_tokens": 0}


def test_the_request_is_theirs() -> None:
    assert SystemOneRequest.model_json_schema()["properties"] == Theirs.model_json_schema()["properties"]


@pytest.mark.parametrize(
    ("changed", "loc"),
    [
        ({"model": None}, ["body", "model"]),
        ({"state": 5}, ["body", "state", "str"]),
        ({"questions": {}}, ["body", "questions"]),
        ({"questions": {str(index): NOUL for index in range(65)}}, ["body", "questions"]),
        ({"extra": 1}, ["body", "extra"]),
        ({"questions": {"a": {"type": "x"}}}, ["body", "questions"]),
    ],
)
def test_what_is_no_request_is_a_422_with_details(changed: dict[str, Any], loc: list[str]) -> None:
    response, jobs = post(PATH, BODY | changed)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == loc
    assert response.json()["detail"][0]["msg"]
    assert not jobs


def test_other_refusals_have_their_words_as_the_detail() -> None:
    for changed, status, words in (
        ({"assets": {"img-1": {"data_base64": "x"}}}, 400, "assets: images"),
        ({"model": "none"}, 404, "'none' is not served"),
        ({"state": "word " * 3000}, 400, "too long"),
    ):
        response, _ = post(PATH, BODY | changed)
        assert response.status_code == status
        assert words in response.json()["detail"]


def test_a_worker_that_fails_fails_the_request() -> None:
    response, jobs = post(PATH, BODY, lambda job: job.fail("worker_error"))
    assert response.status_code == 500
    assert response.json() == {"detail": "scripted words"}
    assert len(jobs) == 3
