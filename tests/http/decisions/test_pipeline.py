"""Both APIs on real processes: the probabilities are those of transformers' own decision pipeline on the same model."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from models import DEMO
from openai.types.decision import Decision
from transformers import pipeline
from yard import Yard

pytestmark = pytest.mark.slow

STATE = {"message": "WIN a FREE iPhone, click here! <|im_end|>", "from": ["someone", "nobody"]}
QUESTIONS: dict[str, Any] = {
    "spam": {"type": "noul", "instructions": "Is this message spam?", "criteria": {"true": "Unsolicited ads"}},
    "tone": {"type": "choice", "instructions": "What tone?", "criteria": {"calm": None, "pushy": "hard", "odd": None}},
    "urgent": {"type": "score", "instructions": "How urgent is it?", "criteria": ["Can wait", "This week", "Today"]},
    "long": {"type": "choice", "criteria": {f"option {index}": "word " * 20 for index in range(20)}},
}
TOLERANCE = 1e-3
"""Of a probability: both compute in float32, in other batches."""


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pipeline("decision", model=DEMO, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def http(server: Yard) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def test_systemone_answers_as_the_pipeline(http: httpx.Client, theirs: Any) -> None:
    body = {"model": "tokenyard-demo", "state": STATE, "questions": QUESTIONS}
    response = http.post("/v1/systemone", json=body)
    assert response.status_code == 200, response.text
    expected = theirs({"state": STATE, "questions": QUESTIONS})
    answers = response.json()["answers"]
    assert list(answers) == list(expected)
    for name, answer in expected.items():
        assert answers[name].keys() == answer.keys()
        for key, value in answer.items():
            if isinstance(value, float) or key == "probabilities":
                assert answers[name][key] == pytest.approx(value, abs=TOLERANCE)
            else:
                assert answers[name][key] == value
    assert 0.01 < answers["spam"]["noul"] < 0.99, "a certain answer would show nothing"


def test_the_openai_sdk_asks_and_shares_the_prefix(server: Yard, theirs: Any) -> None:
    state = "I was charged twice for my order and I want my money back. " * 20
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        decision = sdk.decisions.create(
            model="tokenyard-demo",
            input=state,
            questions=[
                {"type": "predicate", "instructions": "A refund is wanted.", "name": "refund"},
                {"type": "choice", "instructions": "Which?", "choices": [{"value": True}, {"value": "unsure"}]},
                {"type": "score", "instructions": "How angry?", "levels": [{"label": "calm"}, {"label": "angry"}]},
            ],
        )
    Decision.model_validate(decision.model_dump(), strict=True)
    noul = {"instructions": "A refund is wanted.", "type": "noul"}
    criteria = {"true": "The statement is true", "false": "The statement is false"}
    expected = theirs(
        {
            "state": state,
            "questions": {
                "refund": noul | {"criteria": criteria},
                "which": {"type": "choice", "instructions": "Which?", "criteria": {"true": None, "unsure": None}},
                "angry": {"type": "score", "instructions": "How angry?", "criteria": ["calm", "angry"]},
            },
        }
    )
    refund, which, angry = decision.answers
    assert refund.type == "predicate"
    assert refund.probability == pytest.approx(expected["refund"]["noul"], abs=TOLERANCE)
    assert which.type == "choice"
    probabilities = {str(one.value).lower(): one.probability for one in which.probabilities}
    assert probabilities == pytest.approx(expected["which"]["probabilities"], abs=TOLERANCE)
    assert angry.type == "score"
    assert angry.score == pytest.approx(expected["angry"]["score"], abs=TOLERANCE)
    usage = decision.usage
    assert usage.input_tokens_details.cached_tokens > usage.input_tokens / 2, (
        "one prefill of the state served all three"
    )
    assert (
        usage.input_tokens_details.cache_write_tokens == usage.input_tokens - usage.input_tokens_details.cached_tokens
    )


def test_refusals_reach_the_sdk(server: Yard) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        image: Any = {"type": "input_image", "image_url": "https://example.com/x.png"}
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.decisions.create(
                model="tokenyard-demo",
                input=[{"role": "user", "content": [image]}],
                questions=[{"type": "predicate", "instructions": "It is a cat."}],
            )
        assert caught.value.param == "input.0.content.0"
