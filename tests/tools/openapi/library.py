"""A small library as a real service: its OpenAPI document, and a server that records what reaches it."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from agentgrpo.types import JsonObject
from tests.tools.http.network import Service

DOCUMENT: JsonObject = {
    "openapi": "3.0.3",
    "info": {"title": "Library", "version": "1"},
    "servers": [{"url": "https://elsewhere.example/api"}],
    "paths": {
        "/books": {
            "parameters": [{"$ref": "#/components/parameters/Branch"}],
            "get": {
                "operationId": "list.books",
                "summary": "List books",
                "description": "List books of a branch,\n the newest first.",
                "parameters": [
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {
                        "name": "limit",
                        "in": "query",
                        "description": "How many.",
                        "schema": {"type": "integer", "minimum": 1, "maximum": 50, "default": 10},
                    },
                    {"name": "X-Request-Id", "in": "header", "schema": {"type": "string"}},
                    {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                    {"name": "Authorization", "in": "header", "required": True, "schema": {"type": "string"}},
                ],
                "responses": {"200": {"description": "ok"}},
            },
            "post": {
                "operationId": "addBook",
                "requestBody": {"$ref": "#/components/requestBodies/Book"},
                "responses": {"201": {"description": "made"}},
            },
        },
        "/books/{id}": {
            "get": {
                "summary": "Show a book.",
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {"200": {"description": "ok"}},
            },
            "delete": {
                "operationId": "removeBook",
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {"204": {"description": "gone"}},
            },
            "put": {
                "operationId": "replaceBook",
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"id": {"type": "string"}, "title": {"type": "string"}},
                            }
                        }
                    }
                },
                "responses": {"200": {"description": "ok"}},
            },
        },
        "/search": {
            "get": {
                "operationId": "search",
                "parameters": [
                    {
                        "name": "filter",
                        "in": "query",
                        "style": "deepObject",
                        "explode": True,
                        "schema": {"type": "object", "properties": {"year": {"type": "integer"}}},
                    },
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array", "items": {}}},
                    {
                        "name": "piped",
                        "in": "query",
                        "style": "pipeDelimited",
                        "schema": {"type": "array", "items": {"type": "integer"}},
                    },
                    {"name": "json", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
                    {"name": "flag", "in": "query", "schema": {"type": "boolean"}},
                    {"name": "spread", "in": "query", "schema": {"type": "object"}},
                    {"name": "near", "in": "query", "schema": {"type": "string", "nullable": True}},
                ],
                "responses": {"200": {"description": "ok"}},
            }
        },
        "/tree": {
            "post": {
                "operationId": "addTree",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Tree"}}}},
                "responses": {},
            }
        },
        "/upload": {
            "post": {
                "operationId": "upload",
                "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {"type": "object"}}}},
                "responses": {},
            }
        },
    },
    "components": {
        "parameters": {"Branch": {"name": "branch", "in": "query", "required": True, "schema": {"type": "string"}}},
        "requestBodies": {
            "Book": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Book"}}},
            }
        },
        "schemas": {
            "Book": {
                "type": "object",
                "required": ["id", "title", "shelf"],
                "properties": {
                    "id": {"type": "string", "readOnly": True},
                    "title": {"type": "string", "maxLength": 80, "description": "As printed."},
                    "shelf": {"$ref": "#/components/schemas/Shelf"},
                    "price": {"type": "number", "nullable": True},
                },
            },
            "Shelf": {"type": "string", "enum": ["north", "south"]},
            "Tree": {"properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}}},
        },
    },
}


def library() -> Service:
    """Return the service; use it as an async context manager."""
    books: dict[str, Any] = {"1": {"id": "1", "title": "Solaris"}}

    async def list_books(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response(list(books.values()), dumps=lambda value: json.dumps(value, indent=4))
        book = await request.json() | {"id": str(len(books) + 1)}
        books[book["id"]] = book
        return web.json_response(book, status=201)

    async def one_book(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            return web.Response(status=204)
        return web.json_response(books["1"])

    async def missing(request: web.Request) -> web.StreamResponse:
        return web.json_response({"detail": "no such book"}, status=404)

    async def search(request: web.Request) -> web.StreamResponse:
        return web.json_response([[name, value] for name, value in request.query.items()])

    routes = {"/v1/books": list_books, "/v1/books/1": one_book, "/v1/books/9": missing, "/v1/search": search}
    return Service(routes)
