"""The other two protocols, by their own clients: `/v1/responses` and Anthropic's `/v1/messages`."""

from __future__ import annotations

import json

import anthropic
import httpx
import openai
import pytest

from swift.templates.messages import text_of
from tests.serve.serving import Scripted, serve, tiny_engine
from tests.serve.test_chat import CALLS, TOOL
from tests.tiny import ask

THOUGHTS = "<think>\nhm hm\n</think>\n\nParis"
THINKING = (
    "{% for message in messages %}{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n"
    "</think>\n\n{% endif %}{{ message.content }}<|im_end|>{% endfor %}"
)
FUNCTION = {"type": "function", **TOOL["function"]}
USABLE = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}


class Both:
    """A server that says one thing, and both clients of it."""

    def __init__(self, text, **template):
        self.server = serve(Scripted(text, **template))
        self.openai = openai.OpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=self.server.url, api_key="none", max_retries=0)

    @property
    def last(self):
        return self.server.service.engine.requests[-1]

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop()


def told(events):
    """The response that a stream ends with, after the client's own bookkeeping."""
    found = [event for event in events if event.type in ("response.completed", "response.incomplete")]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return found[-1].response


def test_a_response_is_the_chats_answer():
    with serve(tiny_engine()) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        chat = client.chat.completions.create(
            model="tiny",
            messages=ask("hi", "be brief"),
            max_tokens=12,
            temperature=0,
        )
        more = {"model": "tiny", "instructions": "be brief", "input": "hi", "max_output_tokens": 12, "temperature": 0}
        found = client.responses.create(**more)
        assert found.output_text == chat.choices[0].message.content
        assert (found.usage.input_tokens, found.usage.output_tokens) == (chat.usage.prompt_tokens, 12)
        assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        with client.responses.stream(**more) as stream:
            events = list(stream)
        assert told(events).output_text == found.output_text
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == found.output_text and len(deltas) > 1
        schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
        form = {"format": {"type": "json_schema", "name": "x", "schema": schema | {"additionalProperties": False}}}
        shaped = client.responses.create(model="tiny", input=ask("hi"), text=form, max_output_tokens=50)
        assert json.loads(shaped.output_text)["a"] in (1, 2)
        for wrong, said in (
            ({"previous_response_id": "resp_1"}, "keeps no answers"),
            ({"tools": [{"type": "web_search"}]}, "functions alone"),
            ({"input": [{"type": "item_reference", "id": "x"}]}, "none that this server reads"),
            ({"temperature": 9e99, "top_p": 3}, "top_p"),
        ):
            with pytest.raises(openai.BadRequestError, match=said):
                client.responses.create(**{**more, **wrong})


def test_calls_of_a_response_go_round():
    with Both(CALLS, agent_template="hermes") as both:
        more = {"model": "tiny", "tools": [FUNCTION]}
        found = both.openai.responses.create(input="hi", **more)
        assert [item.type for item in found.output] == ["message", "function_call", "function_call"]
        call = found.output[1]
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Paris"})
        with both.openai.responses.stream(input="hi", **more) as stream:
            last = told(list(stream))
        assert [item.type for item in last.output] == [item.type for item in found.output]
        assert last.output[1].arguments == call.arguments and last.status == "completed"
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        items = [*ask("hi"), *[item.model_dump(exclude_none=True) for item in found.output[:2]], result]
        both.openai.responses.create(input=items, **more)
        turns = both.last.messages
        assert [turn["role"] for turn in turns] == ["user", "assistant", "tool"]
        assert turns[1]["content"] == "I look." and turns[1]["tool_calls"][0]["function"]["name"] == "weather"
        assert turns[2]["content"] == "sunny" and turns[2]["tool_call_id"] == call.call_id


def test_reasoning_of_a_response():
    with Both(THOUGHTS, chat_template=THINKING) as both:
        found = both.openai.responses.create(model="tiny", input="hi")
        assert [item.type for item in found.output] == ["reasoning", "message"]
        assert found.output[0].content[0].text == "hm hm" and found.output_text == "Paris"
        with both.openai.responses.stream(model="tiny", input="hi") as stream:
            assert told(list(stream)).output[0].content[0].text == "hm hm"


def test_messages_of_anthropics_client():
    with Both("the sky") as both:
        more = {"model": "tiny", "max_tokens": 99, "messages": ask([{"type": "text", "text": "hi"}])}
        found = both.anthropic.messages.create(**more, system=[{"type": "text", "text": "be brief"}])
        assert (found.content[0].text, found.stop_reason) == ("the sky", "end_turn")
        assert [text_of(turn) for turn in both.last.messages] == ["be brief", "hi"]
        assert found.usage.output_tokens == len(both.server.service.engine.ids)
        with both.anthropic.messages.stream(**more) as stream:
            assert "".join(stream.text_stream) == "the sky"
            assert stream.get_final_message().usage.output_tokens == found.usage.output_tokens
        cut = both.anthropic.messages.create(**{**more, "max_tokens": 1})
        assert cut.stop_reason == "max_tokens"
        counted = both.anthropic.messages.count_tokens(model="tiny", messages=ask("hi"))
        assert counted.input_tokens == found.usage.input_tokens - len(
            both.server.service.engine.tokenizer.encode("<|im_start|>system\nbe brief<|im_end|>\n")
        )


def test_tools_and_thoughts_of_anthropics_client():
    with Both(CALLS, agent_template="hermes") as both:
        more = {"model": "tiny", "max_tokens": 500, "tools": [USABLE]}
        found = both.anthropic.messages.create(messages=ask("hi"), **more)
        assert [block.type for block in found.content] == ["text", "tool_use", "tool_use"]
        assert (found.content[1].name, found.content[1].input) == ("weather", {"city": "Paris"})
        assert found.stop_reason == "tool_use"
        with both.anthropic.messages.stream(messages=ask("hi"), **more) as stream:
            last = stream.get_final_message()
        assert [block.type for block in last.content] == ["text", "tool_use", "tool_use"]
        assert last.content[1].input == {"city": "Paris"} and last.stop_reason == "tool_use"
        result = {"type": "tool_result", "tool_use_id": found.content[1].id, "content": "sunny"}
        history = [
            *ask("hi"),
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in found.content[:2]]},
            {"role": "user", "content": [result, {"type": "text", "text": "thanks"}]},
        ]
        both.anthropic.messages.create(messages=history, **more)
        assert [turn["role"] for turn in both.last.messages] == ["user", "assistant", "tool", "user"]
        assert both.last.messages[2]["tool_call_id"] == found.content[1].id
        one = both.anthropic.messages.create(
            messages=ask("hi"), tool_choice={"type": "auto", "disable_parallel_tool_use": True}, **more
        )
        assert [block.type for block in one.content] == ["text", "tool_use"]
    with Both(THOUGHTS, chat_template=THINKING) as both:
        found = both.anthropic.messages.create(model="tiny", max_tokens=99, messages=ask("hi"))
        assert (found.content[0].thinking, found.content[1].text) == ("hm hm", "Paris")


def test_errors_are_in_the_form_of_their_protocol():
    with Both("yes") as both:
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            both.anthropic.messages.create(model="huge", max_tokens=4, messages=ask("hi"))
        image = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
        with pytest.raises(anthropic.BadRequestError, match="reads text alone"):
            both.anthropic.messages.create(model="tiny", max_tokens=4, messages=ask([image]))
        wrong = httpx.post(f"{both.server.url}/v1/messages", json={"messages": ask("hi")})
        assert wrong.status_code == 400 and wrong.json()["type"] == "error"
        assert wrong.json()["error"]["type"] == "invalid_request_error" and "max_tokens" in wrong.text
    with serve(Scripted("yes"), api_key="k") as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0)
        assert client.messages.create(model="tiny", max_tokens=9, messages=ask("hi")).content[0].text == "yes"
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="x").messages.create(model="tiny", max_tokens=9, messages=ask("hi"))


def test_the_stop_sequence_that_ended_a_message_is_named():
    with Both("the sky is blue") as both:
        more = {"model": "tiny", "max_tokens": 99, "messages": ask("hi"), "stop_sequences": ["moon", " is"]}
        found = both.anthropic.messages.create(**more)
        assert (found.content[0].text, found.stop_reason, found.stop_sequence) == ("the sky", "stop_sequence", " is")
        with both.anthropic.messages.stream(**more) as stream:
            last = stream.get_final_message()
        assert (last.content[0].text, last.stop_reason, last.stop_sequence) == ("the sky", "stop_sequence", " is")
        choice = both.openai.chat.completions.create(model="tiny", messages=ask("hi"), stop=[" is"]).choices[0]
        assert (choice.finish_reason, choice.stop_reason) == ("stop", " is")


def test_no_two_items_of_responses_have_the_same_id():
    with Both(CALLS, agent_template="hermes") as both:
        found = [both.openai.responses.create(model="tiny", input="hi", tools=[FUNCTION]) for _ in range(2)]
        ids = [item.id for response in found for item in response.output]
        assert len(set(ids)) == len(ids) == 6
        with both.openai.responses.stream(model="tiny", input="hi", tools=[FUNCTION]) as stream:
            events = list(stream)
        told(events)
        begun = [event.item.id for event in events if event.type == "response.output_item.added"]
        assert begun == [event.item.id for event in events if event.type == "response.output_item.done"]
