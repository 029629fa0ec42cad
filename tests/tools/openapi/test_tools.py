"""OpenAPI tools against a real service: what the model sees, what is sent, and what comes back."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import EnvError, ToolFailure
from agentgrpo.tooling import Tool, ToolResult
from agentgrpo.tools.binding import bind
from agentgrpo.tools.http import Auth, HttpClient
from agentgrpo.tools.openapi import openapi_tools
from agentgrpo.types import Json, JsonObject
from tests.tools.http.network import Service
from tests.tools.openapi.library import DOCUMENT, library

ESCAPES = ["../x", "a/b", "%2e%2e", "..%2f", "?x=1", "#", "//evil.example", "a\\b", "..", "."]
ALL = ["list.books", "addBook", "GET /books/{id}", "removeBook", "replaceBook", "search"]
NOWHERE = HttpClient("http://127.0.0.1:9/v1", allow_private=True, retries=0)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with library() as service:
        yield service


def tools_of(
    client: HttpClient = NOWHERE, document: Any = DOCUMENT, include: Any = ALL, idempotent: Sequence[str] = ()
) -> dict[str, Tool]:
    tools = openapi_tools(document, client, include=include, idempotent=idempotent)
    return {tool.name: tool for tool in tools}


async def call(service: Service, name: str, **arguments: Json) -> ToolResult:
    client = HttpClient(f"{service.url}/v1", allow_private=True, retries=0)
    return await asyncio.to_thread(tools_of(client)[name].call, arguments)


def changed(path: str, value: Json) -> JsonObject:
    """Return the document with one part replaced; parts are separated by spaces."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split()
    holder: Any = document
    for part in parents:
        holder = holder[int(part) if isinstance(holder, list) else part]
    holder[int(last) if isinstance(holder, list) else last] = value
    return document


def test_tools_have_flat_schemas_and_short_descriptions() -> None:
    tools = tools_of()
    assert list(tools) == ["list_books", "addBook", "get_books_id", "removeBook", "replaceBook", "search"]
    assert tools["list_books"].description == "List books of a branch, the newest first."
    assert tools["list_books"].parameters == {
        "type": "object",
        "properties": {
            "branch": {"type": "string"},
            "tag": {"type": "array", "items": {"type": "string"}},
            "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 10, "description": "How many."},
            "X-Request-Id": {"type": "string"},
        },
        "required": ["branch"],
    }
    assert tools["addBook"].parameters == {
        "type": "object",
        "properties": {
            "branch": {"type": "string"},
            "title": {"type": "string", "maxLength": 80, "description": "As printed."},
            "shelf": {"type": "string", "enum": ["north", "south"]},
            "price": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        },
        "required": ["branch", "title", "shelf"],
    }
    # The body has an id of its own, so it stays an argument.
    assert list(tools["replaceBook"].parameters["properties"]) == ["id", "body"]
    assert tools["replaceBook"].parameters["required"] == ["id"]
    assert "$ref" not in json.dumps([tool.schema for tool in tools.values()])


async def test_what_is_sent_is_what_the_document_says(service: Service) -> None:
    result = await call(service, "list_books", branch="a b", tag=["x", "y&z"], limit=3, **{"X-Request-Id": "7"})
    assert result == ('[{"id": "1", "title": "Solaris"}]', False)
    (request,) = service.hits
    assert request.raw_path == "/v1/books?branch=a+b&tag=x&tag=y%26z&limit=3"
    assert request.headers["X-Request-Id"] == "7"
    assert "Cookie" not in request.headers and "Authorization" not in request.headers


async def test_a_body_is_put_together_from_its_properties(service: Service) -> None:
    made = await call(service, "addBook", branch="b", title="Fiasco", shelf="north", price=None)
    assert json.loads(made.content) == {"title": "Fiasco", "shelf": "north", "price": None, "id": "2"}
    assert json.loads(service.bodies[0]) == {"title": "Fiasco", "shelf": "north", "price": None}
    assert service.hits[0].query_string == "branch=b"
    await call(service, "replaceBook", id="1", body={"id": "1", "title": "Eden"})
    assert json.loads(service.bodies[1]) == {"id": "1", "title": "Eden"}
    await call(service, "replaceBook", id="1")
    assert service.bodies[2] == b""


async def test_an_answer_without_a_body_is_ok(service: Service) -> None:
    assert await call(service, "removeBook", id="1") == ("ok", False)


async def test_query_styles_are_openapis(service: Service) -> None:
    arguments = {
        "filter": {"year": 1961, "x": "y"},
        "ids": [1, "b", True],
        "piped": [1, 2],
        "json": {"a": [1]},
        "flag": False,
        "spread": {"p": 1, "q": "r"},
        "near": None,
    }
    result = await call(service, "search", **arguments)
    assert json.loads(result.content) == [
        ["filter[year]", "1961"],
        ["filter[x]", "y"],
        ["ids", "1,b,true"],
        ["piped", "1|2"],
        ["json", '{"a": [1]}'],
        ["flag", "false"],
        ["p", "1"],
        ["q", "r"],
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "told"),
    [
        ("list_books", {}, "invalid_arguments", "argument 'branch' is missing"),
        ("list_books", {"branch": "b", "limit": 99}, "invalid_arguments", "got 99, expected less than or equal to 50"),
        ("list_books", {"branch": "b", "lmit": 9}, "invalid_arguments", "Did you mean 'limit'?"),
        ("list_books", {"branch": "b", "session": "x"}, "invalid_arguments", "argument 'session'"),
        ("list_books", {"branch": "b", "Authorization": "x"}, "invalid_arguments", "argument 'Authorization'"),
        (
            "addBook",
            {"branch": "b", "title": "t", "shelf": "east"},
            "invalid_arguments",
            "got 'east', expected",
        ),
        ("addBook", {"branch": "b", "title": "t", "shelf": "north", "id": "7"}, "invalid_arguments", "argument 'id'"),
        ("list_books", {"branch": "b", "X-Request-Id": "a\r\nX: y"}, "tool_error", "takes printable ASCII"),
        ("get_books_id", {"id": "9"}, "tool_error", '404 Not Found: {"detail": "no such book"}'),
        ("get_books_id", {"id": ".."}, "tool_error", "cannot stand in a path"),
        ("get_books_id", {"id": ""}, "tool_error", "cannot stand in a path"),
    ],
)
async def test_what_a_model_gets_wrong_is_told_in_one_line(
    service: Service, name: str, arguments: JsonObject, kind: str, told: str
) -> None:
    result = await call(service, name, **arguments)
    error = json.loads(result.content)["error"]
    assert result.is_error
    assert error["type"] == kind
    assert told in error["message"]


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30).filter(lambda text: text != "9") | st.sampled_from(ESCAPES))  # 9 is missing
async def test_no_value_leaves_its_place_in_the_path(value: str) -> None:
    async with library() as service:
        result = await call(service, "removeBook", id=value)
        for hit in service.hits:
            assert hit.rel_url.raw_parts[:3] == ("/", "v1", "books") and len(hit.rel_url.raw_parts) == 4
            assert hit.match_info["path"] == f"v1/books/{value}"
            assert hit.query_string == ""
        assert len(service.hits) == (0 if result.is_error else 1)


@pytest.mark.parametrize("value", ["..", ".", "../admin", "a/../../admin", "..\\admin", "1/.", ""])
async def test_a_value_does_not_climb_in_the_path_even_where_slashes_are_decoded(service: Service, value: str) -> None:
    result = await call(service, "removeBook", id=value)
    assert "cannot stand in a path" in result.content
    assert service.hits == []
    assert (await call(service, "removeBook", id="a/..b/c...")).content == "hit"


async def test_a_broken_service_fails_the_episode_and_idempotent_calls_are_repeated(service: Service) -> None:
    async def down(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    service.routes |= {"/v1/books": down, "/v1/books/1": down}
    client = HttpClient(f"{service.url}/v1", allow_private=True, retries=1)
    for marked, hits in (((), {"list_books": 2, "removeBook": 2, "addBook": 1}), (("addBook",), {"addBook": 2})):
        tools = tools_of(client, idempotent=marked)
        for name, expected in hits.items():
            service.hits.clear()
            arguments = {"list_books": {"branch": "b"}, "removeBook": {"id": "1"}}.get(
                name, {"branch": "b", "title": "t", "shelf": "north"}
            )
            with pytest.raises(ToolFailure, match=f"503 Service Unavailable; asked {expected} times"):
                await asyncio.to_thread(tools[name].call, arguments)
            assert len(service.hits) == expected


async def test_the_credential_is_the_clients_and_no_parameter_sets_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRARY_KEY", "canary-1234")
    auth = Auth(variable="LIBRARY_KEY", header="X-Request-Id", scheme="")
    tools = tools_of(HttpClient(f"{service.url}/v1", allow_private=True, auth=auth))
    assert "X-Request-Id" not in tools["list_books"].parameters["properties"]
    await asyncio.to_thread(tools["list_books"].call, {"branch": "b"})
    assert service.hits[0].headers["X-Request-Id"] == "canary-1234"


async def test_arguments_can_be_bound_by_the_author(service: Service) -> None:
    client = HttpClient(f"{service.url}/v1", allow_private=True)
    tool = bind(tools_of(client)["list_books"], branch="mine")
    assert tool.parameters.get("required") is None
    await asyncio.to_thread(tool.call, {"limit": 1})
    assert service.hits[0].query_string == "branch=mine&limit=1"


def test_an_author_may_name_tools() -> None:
    tools = tools_of(include={"list.books": "books", "GET /books": "same_books"})
    assert list(tools) == ["books", "same_books"]


@pytest.mark.parametrize(
    ("include", "told"),
    [
        ([], r"names no operation; the document has GET /books/{id}, addBook"),
        (["addBok"], r"no operation 'addBok'\. Did you mean 'addBook'\? It has GET /books/{id}, addBook"),
        ("addBook", r"takes a list of operations, got the text 'addBook'"),
        (["list.books", "GET /books"], "two tools would be called 'list_books'"),
        (["addTree"], "operation addTree: the schema Tree contains itself"),
        (["upload"], "operation upload: its body is multipart/form-data; only JSON is supported"),
        ({"addBook": "no name"}, "a tool is called 'no name'"),
    ],
)
def test_a_selection_that_cannot_be_tools_is_the_authors_mistake(include: Any, told: str) -> None:
    with pytest.raises(EnvError, match=told):
        tools_of(include=include)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("openapi", "2.0", "says version 2.0; expected OpenAPI 3.0 or 3.1"),
        ("openapi", None, "says version None"),
        ("paths", [], "'paths' is no object"),
        ("paths /books get parameters 0 in", "body", "is in 'body'"),
        ("paths /books get parameters 0 style", "odd", "style 'odd', which is not supported"),
        ("paths /books get parameters 3 required", True, "cookie parameter session is required"),
        ("paths /books/{id} delete parameters", [], "has {id}, of which no path parameter speaks"),
        ("paths /books get parameters 0", {"$ref": "other.json#/x"}, "leaves the document"),
        ("paths /books get parameters 0", 7, "where an object was expected"),
        ("paths /books get parameters 0 content", {"text/csv": {}}, "sent as text/csv; only JSON"),
        (
            "paths /books post operationId",
            "list.books",
            "'list.books' more than once: call them GET /books and",
        ),
    ],
)
def test_a_document_that_cannot_be_used_is_the_authors_mistake(path: str, value: Json, told: str) -> None:
    with pytest.raises(EnvError, match=told):
        tools_of(document=changed(path, value), include=["list.books", "removeBook"])


@pytest.mark.parametrize("marked", ["search", "addBok"])
def test_what_is_marked_idempotent_must_be_included(marked: str) -> None:
    with pytest.raises(EnvError, match="which is not included"):
        tools_of(include=["addBook"], idempotent=[marked])


def test_a_client_without_a_service_is_refused() -> None:
    with pytest.raises(EnvError, match="needs a client with a base_url"):
        tools_of(HttpClient(allow=["a.example"]))


def test_documents_are_read_from_json_and_yaml_files(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    as_json, as_yaml = tmp_path / "library.json", tmp_path / "library.yaml"
    as_json.write_text(json.dumps(DOCUMENT))
    text = yaml.safe_dump(DOCUMENT).replace("'200'", "200")
    as_yaml.write_text(text + "x-date: 2024-05-06\n")
    expected = [tool.schema for tool in tools_of().values()]
    for path in (as_json, str(as_json), as_yaml):
        assert [tool.schema for tool in tools_of(document=path).values()] == expected


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("none.json", None, "cannot read the OpenAPI document"),
        ("a.json", "openapi: 3.0.0", "is not JSON: .* A YAML document is called .yaml"),
        ("a.json", "[]", "holds no object"),
        ("a.yaml", "a: [", "cannot be read as YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['false']", "cannot be read as YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path, name: str, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(EnvError, match=told):
        tools_of(document=tmp_path / name)
