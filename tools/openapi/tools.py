"""OpenAPI operations as tools: flat schemas for the model, checked arguments, one request per call.

It knows no particular service. What is sent where, and with which credential, is the client's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentgrpo.errors import EnvError, nearest
from agentgrpo.tooling import Tool
from agentgrpo.tools.http.client import HttpClient
from agentgrpo.tools.http.web import tool_deadline
from agentgrpo.tools.openapi.arguments import validator
from agentgrpo.tools.openapi.document import Source, load_document, select
from agentgrpo.tools.openapi.operation import Operation, read_operation
from agentgrpo.tools.openapi.wire import lay_out
from agentgrpo.types import Json


def openapi_tools(
    document: Source,
    client: HttpClient,
    *,
    include: Sequence[str] | Mapping[str, str],
    idempotent: Sequence[str] = (),
) -> list[Tool]:
    """Return tools for the operations of a service.

    Args:
        document: An OpenAPI 3.0 or 3.1 document, or a file of it (JSON or YAML).
        client: Sends the requests: its `base_url` comes before every path, whatever the document's `servers` say.
        include: Which operations: operationIds, or "GET /path"; a mapping gives each the name of its tool. There is no
            "all": a model offered hundreds of tools uses none of them well, and some should not be offered.
        idempotent: Those of them that are safe to repeat although their method (POST, PATCH) does not say so.

    Raises:
        EnvError: the document or an operation cannot be used; the message says why.
    """
    if client.reach.base is None:
        raise EnvError("openapi_tools needs a client with a base_url: HttpClient('https://api.example.org/v2')")
    for wanted in idempotent:
        if wanted not in include:
            raise EnvError(f"idempotent names {wanted!r}, which is not included.{nearest(wanted, include)}")
    whole = load_document(document)
    marked = {found.route for _, found in select(whole, idempotent)} if idempotent else set()
    reserved = (client.auth.header.lower(),) if client.auth is not None else ()
    return [
        _tool(name, read_operation(whole, found, reserved=reserved), client, is_marked=found.route in marked)
        for name, found in select(whole, include)
    ]


def _tool(name: str, operation: Operation, client: HttpClient, *, is_marked: bool) -> Tool:
    async def call(**arguments: Any) -> Json:
        sent = lay_out(operation, arguments)
        answer = await client.request(
            operation.method,
            sent.path,
            query=sent.query,
            json=sent.body,
            headers=sent.headers,
            idempotent=is_marked or None,
        )
        return answer.readable

    parameters = operation.schema
    try:
        validate = validator(parameters)
    except EnvError as error:
        raise EnvError(f"operation {operation.method} {operation.path}: {error}") from error
    return Tool(
        name=name,
        description=operation.about,
        parameters=parameters,
        function=call,
        validate=validate,
        is_async=True,
        deadline=tool_deadline(client),
    )
