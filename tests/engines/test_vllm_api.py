"""What comes from something that is no vLLM, or a broken one: always trouble with a reason, never another error."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agentgrpo.engines.vllm_api import GENERATE, METRICS, MODELS, BadAnswer, Trouble, VllmApi
from agentgrpo.types import Sampling


async def _asked(path: str, body: bytes, status: int = 200) -> None:
    """Ask a server that gives one answer to everything whatever is asked at this path."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_route("*", path, answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        api = VllmApi(str(server.make_url("")), http, seconds=60.0, load_seconds=60.0)
        if path == MODELS:
            await api.card()
        elif path == METRICS:
            await api.preemptions()
        else:
            async with api.stream("m", (1,), Sampling(max_tokens=1), "") as stream:
                await stream.next()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MODELS, b"\xff\xfe\x00"),
        (MODELS, b'{"data": [{"id": "m", "parent": null, "max_model_len": "long"}]}'),
        (METRICS, b"vllm:num_preemptions_total"),
        (METRICS, b'vllm:num_preemptions_total{engine="0"} NaN'),
    ],
)
async def test_an_answer_that_cannot_be_read_is_a_bad_one(path: str, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        await _asked(path, body)


async def test_an_error_is_told_in_whatever_shape_it_comes() -> None:
    with pytest.raises(Trouble, match=r"it gave up: .*'code': 500"):
        await _asked(GENERATE, b'data: {"error": {"code": 500}}\n\n')
    with pytest.raises(Trouble, match="it answered 502"):
        await _asked(MODELS, b"\xff\xfe", status=502)
