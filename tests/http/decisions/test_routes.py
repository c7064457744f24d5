"""POST /v1/decisions over scripted workers: every object is the openai SDK's, and so is every field of a request."""

import asyncio
from typing import Any, get_args, get_type_hints

import pytest
from front import decides, post
from models import demo_tokenizer
from openai.types import decision_create_params as sdk
from openai.types.decision import Decision
from openai.types.decision_input_text_param import DecisionInputTextParam
from openai.types.shared_params.decision_input_json import DecisionInputJSON
from scripted import Job

from tokenyard.http.decisions import fields
from tokenyard.http.decisions.verdicts import MAX_AT_ONCE

PATH = "/v1/decisions"
SAID = get_args(sdk.InputDecisionInputAssistantMessageContentDecisionInputAssistantContentParts)
PREDICATE = {"type": "predicate", "instructions": "The message is spam.", "name": "spam"}
CHOICE = {
    "type": "choice",
    "instructions": [{"type": "input_text", "text": "What is it?"}, {"type": "input_json", "data": {"a": 1}}],
    "choices": [{"value": True}, {"value": "true", "description": "the word"}],
}
LEVELS = [{"label": "no"}, {"label": "yes", "description": "now"}]
SCORE = {"type": "score", "instructions": "How urgent?", "levels": LEVELS}
BODY: dict[str, Any] = {"model": "demo", "input": "WIN!", "questions": [PREDICATE, CHOICE, SCORE]}


def test_each_type_of_question_has_its_answer() -> None:
    harmless = {"prompt_cache_key": "k", "prompt_cache_options": {"mode": "implicit"}}
    response, jobs = post(PATH, BODY | harmless, decides(0.2, 0.8))
    assert response.status_code == 200, response.text
    decision = Decision.model_validate(response.json(), strict=True)
    predicate, choice, score = decision.answers
    assert predicate.type == "predicate"
    assert (predicate.name, predicate.probability) == ("spam", pytest.approx(0.2))
    assert choice.type == "choice"
    assert choice.name is None
    assert choice.choice == "true"
    assert [(one.value, one.probability) for one in choice.probabilities] == [
        (True, pytest.approx(0.2)), ("true", pytest.approx(0.8)),
    ]  # fmt: skip
    assert choice.confidence == pytest.approx(0.6)
    assert score.type == "score"
    assert score.score == pytest.approx(0.8)
    assert [(one.label, one.value) for one in score.probabilities] == [("no", 0), ("yes", 1)]
    usage = decision.usage
    assert usage.input_tokens == usage.total_tokens == sum(len(job.request.prompt_ids) for job in jobs)
    assert usage.input_tokens_details.cached_tokens == 0
    assert "unknown" not in decision.model_dump_json()


def test_many_questions_leave_room_in_the_queue() -> None:
    running: set[Job] = set()
    most = 0

    def play(job: Job) -> None:
        nonlocal most
        running.add(job)
        most = max(most, len(running))
        asyncio.get_running_loop().call_soon(end, job)

    def end(job: Job) -> None:
        running.remove(job)
        decides(0.2, 0.8)(job)

    response, jobs = post(PATH, BODY | {"questions": [PREDICATE] * 400}, play)
    assert len(response.json()["answers"]) == len(jobs) == 400
    assert most == MAX_AT_ONCE


def test_prompts_share_what_is_judged() -> None:
    _, jobs = post(PATH, BODY | {"input": "some words " * 50}, decides(0.5, 0.5))
    prompts = [job.request.prompt_ids for job in jobs]
    shared = next(at for at, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1)
    assert shared > 100


ITEMS: list[dict[str, Any]] = [
    {"role": "system", "content": "rules"},
    {"role": "user", "content": [{"type": "input_text", "text": "add"}, {"type": "input_json", "data": [{"a": [1]}]}]},
    {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}", "id": "x"},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "3"}]},
    {"type": "custom_tool_call", "call_id": "c1", "name": "say", "input": "hi"},
    {"type": "custom_tool_call_output", "call_id": "c1", "output": "hi"},
    {"role": "assistant", "content": [{"type": "output_text", "text": "3"}, {"type": "refusal", "refusal": "no"}]},
]


def test_items_are_written_as_json() -> None:
    _, jobs = post(PATH, BODY | {"input": ITEMS, "questions": [PREDICATE]}, decides(0.5, 0.5))
    text = demo_tokenizer().backend.decode(jobs[0].request.prompt_ids)
    assert '{"role": "user", "content": ["add", [{"a": [1]}]]}' in text
    assert '{"type": "function_call_output", "call_id": "c1", "output": "3"}' in text
    assert '{"role": "assistant", "content": ["3", "no"]}' in text
    assert "The message is spam." in text


def changed(item: int, **more: Any) -> dict[str, Any]:
    return {"input": [*ITEMS[:item], ITEMS[item] | more, *ITEMS[item + 1 :]]}


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,x"}
DEEP: Any = {}
for _ in range(33):
    DEEP = {"in": DEEP}


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"questions": []}, "questions"),
        ({"questions": [PREDICATE] * 401}, "questions"),
        ({"questions": ["x"]}, "questions.0"),
        ({"questions": [{"type": "noul"}]}, "questions.0.type"),
        ({"questions": [{"type": "predicate"}]}, "questions.0.instructions"),
        ({"questions": [PREDICATE, CHOICE | {"choices": [{"value": "a"}]}]}, "questions.1.choices"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}, {"value": 5}]}]}, "questions.0.choices.1.value"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}, {"value": "a"}]}]}, "questions.0.choices"),
        ({"questions": [CHOICE | {"choices": [{"value": str(at)} for at in range(200)]}]}, "questions.0.choices"),
        ({"questions": [SCORE | {"levels": [{}]}]}, "questions.0.levels.0.label"),
        ({"questions": [PREDICATE | {"instructions": [IMAGE]}]}, "questions.0.instructions.0"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input.0.content.0"),
        ({"input": [{"role": "developer", "content": [{"type": "input_json", "data": {}}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_json", "data": 5}]}]}, "input.0.content.0.data"),
        ({"input": [{"role": "user", "content": [{"type": "input_json", "data": DEEP}]}]}, "input.0.content.0.data"),
        (changed(3, call_id="c2"), "input.3.call_id"),
        (changed(4, call_id="c2"), "input.5.call_id"),
        (changed(2, name=None), "input.2.name"),
        ({"input": "word " * 3000}, "input"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_by_name(wrong: dict[str, Any], param: str) -> None:
    response, jobs = post(PATH, BODY | wrong)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert not jobs


@pytest.mark.parametrize(
    ("types", "table"),
    [
        ([sdk.DecisionCreateParams], fields.DECISIONS),
        ([sdk.InputUnionMember1DecisionInputUserMessage], fields.USER_MESSAGE),
        (
            [sdk.InputUnionMember1DecisionInputDeveloperMessage, sdk.InputUnionMember1DecisionInputSystemMessage],
            fields.PLAIN_MESSAGE,
        ),
        ([sdk.InputUnionMember1DecisionInputAssistantMessage], fields.ASSISTANT_MESSAGE),
        ([sdk.InputUnionMember1DecisionInputFunctionCall], fields.FUNCTION_CALL),
        ([sdk.InputUnionMember1DecisionInputCustomToolCall], fields.CUSTOM_CALL),
        (
            [
                sdk.InputUnionMember1DecisionInputFunctionCallOutput,
                sdk.InputUnionMember1DecisionInputCustomToolCallOutput,
            ],
            fields.CALL_OUTPUT,
        ),
        ([sdk.QuestionQuestionParamPredicate], fields.PREDICATE),
        ([sdk.QuestionQuestionParamChoice], fields.CHOICES),
        ([sdk.QuestionQuestionParamChoiceChoice], fields.CHOICE),
        ([sdk.QuestionQuestionParamScore], fields.SCORE),
        ([sdk.QuestionQuestionParamScoreLevel], fields.LEVEL),
        ([DecisionInputTextParam], fields.TEXT_PART),
        ([DecisionInputJSON], fields.JSON_PART),
        (SAID[:1], fields.OUTPUT_TEXT),
        (SAID[1:], fields.REFUSAL),
    ],
    ids=lambda value: getattr(value[0], "__name__", "") if isinstance(value, list | tuple) else "",
)
def test_every_field_of_the_sdk_has_its_place(types: list[Any], table: fields.Table) -> None:
    for one in types:
        assert table.keys() == get_type_hints(one).keys()
