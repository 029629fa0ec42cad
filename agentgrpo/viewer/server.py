"""The server of the inspector: the page, its data as JSON, a stream of changes, and one request that changes something.

It answers from the store alone. Who may ask is decided by `guard`, what is answered by the module of each screen.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast, get_args

from aiohttp import web

from agentgrpo.errors import AgentGRPOError, UserError
from agentgrpo.store.filter import FilterError
from agentgrpo.store.run import without_nan
from agentgrpo.types import JsonObject, Phase
from agentgrpo.viewer import episodes, guard, live, overview, shifts, steps, timeline
from agentgrpo.viewer.assets import Asset, assets
from agentgrpo.viewer.forking import Fork, Forking, ForkRequest
from agentgrpo.viewer.runs import NoRunError, Runs
from agentgrpo.viewer.tokens import token_bytes

HOST = "127.0.0.1"
THREADS = 4
ANSWER_SECONDS = 60.0
MOST_BYTES = 1 << 16  # of a request
MOST_ROWS = 500


@dataclass(slots=True, kw_only=True)
class Inspector:
    """The handlers, and what they answer from."""

    runs: Runs
    forking: Forking
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "agentgrpo-view"))

    async def answer(self, work: Callable[[], Any]) -> Any:
        """Do blocking work in a thread."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    async def page(self, request: web.Request) -> web.Response:
        """Answer every address of the page with the page itself: it reads its address."""
        if request.path.startswith(("/api/", "/static/")):
            raise web.HTTPNotFound(text="no such address")
        text = assets()["index.html"].text.replace("{{token}}", request.app[guard.GUARD].token)
        return web.Response(text=text, content_type="text/html", charset="utf-8")

    async def static(self, request: web.Request) -> web.Response:
        """Answer with one of the page's files."""
        asset: Asset | None = assets().get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound(text="no such file")
        headers = {"ETag": f'"{asset.tag}"', "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=asset.body, content_type=asset.kind, charset="utf-8", headers=headers)

    async def list_runs(self, _: web.Request) -> web.Response:
        """All runs, the newest first."""

        def work() -> list[JsonObject]:
            return [overview.run_line(self.runs.get(name)) for name in reversed(self.runs.paths())]

        return reply({"root": str(self.runs.root.resolve().name), "runs": await self.answer(work)})

    async def run(self, request: web.Request) -> web.Response:
        """One run: its record, configuration, and what can be filtered by."""
        run = self.runs.get(request.match_info["run"])
        return reply(await self.answer(partial(overview.run_details, run)))

    async def steps(self, request: web.Request) -> web.Response:
        """Curves of everything known per step."""
        run = self.runs.get(request.match_info["run"])
        return reply(await self.answer(partial(steps.steps_data, run)))

    async def groups(self, request: web.Request) -> web.Response:
        """The groups of one step."""
        run, query = self.runs.get(request.match_info["run"]), request.query
        return reply(await self.answer(partial(steps.groups_data, run, phase_of(query), integer(query, "step"))))

    async def shift(self, request: web.Request) -> web.Response:
        """What differs between two spans of steps."""
        run, query = self.runs.get(request.match_info["run"]), request.query
        before, after = span(query, "before"), span(query, "after")
        return reply(await self.answer(partial(shifts.shift_data, run, phase_of(query), before, after)))

    async def timeline(self, request: web.Request) -> web.Response:
        """When the episodes of a step ran."""
        run, query = self.runs.get(request.match_info["run"]), request.query
        return reply(await self.answer(partial(timeline.timeline_data, run, phase_of(query), integer(query, "step"))))

    async def list(self, request: web.Request) -> web.Response:
        """A page of episodes."""
        run, query = self.runs.get(request.match_info["run"]), request.query
        after = integer(query, "after") if "after" in query else None
        limit = max(1, min(MOST_ROWS, integer(query, "limit", episodes.PAGE)))
        order, descending = query.get("order", "id"), query.get("way", "down") != "up"
        text = query.get("filter", "")
        return reply(await self.answer(partial(episodes.list_data, run, text, order, descending, after, limit)))

    async def count(self, request: web.Request) -> web.Response:
        """How many episodes a filter finds."""
        run = self.runs.get(request.match_info["run"])
        return reply(await self.answer(partial(episodes.count_data, run, request.query.get("filter", ""))))

    async def episode(self, request: web.Request) -> web.Response:
        """One episode in full, but its tokens."""
        run = self.runs.get(request.match_info["run"])
        return reply(await self.answer(partial(episodes.open_episode, run, text_of(request.query, "episode"))))

    async def tokens(self, request: web.Request) -> web.Response:
        """The tokens of an episode, packed."""
        run, which = self.runs.get(request.match_info["run"]), text_of(request.query, "episode")

        def work() -> bytes:
            with run.reader() as reader:
                stored = reader.get(which)
            return token_bytes(stored, run.vocabulary)

        return web.Response(body=await self.answer(work), content_type="application/octet-stream")

    async def group(self, request: web.Request) -> web.Response:
        """The episodes of a group side by side."""
        run = self.runs.get(request.match_info["run"])
        return reply(await self.answer(partial(episodes.group_data, run, text_of(request.query, "episode"))))

    async def compare(self, request: web.Request) -> web.Response:
        """Any episodes side by side: `pick` is a run, a space and an episode, once for each."""
        parts = [pick.partition(" ") for pick in request.query.getall("pick", [])]
        picks = [(self.runs.get(name), which) for name, _, which in parts]
        return reply(await self.answer(partial(episodes.columns_data, picks)))

    async def live(self, request: web.Request) -> web.StreamResponse:
        """A stream of changes of one run."""
        return await live.follow(request, self.runs.get(request.match_info["run"]))

    async def fork(self, request: web.Request) -> web.Response:
        """Continue an episode from a turn on; answered at once, the work goes on."""
        run = self.runs.get(text_of(request.query, "run"))
        try:
            body = json.loads(await request.read())
        except ValueError as error:
            raise UserError(f"the request is not JSON: {error}") from error
        job = self.forking.start(run.directory.path, ForkRequest.of(request.match_info["episode"], body))
        return reply(job.data(), status=202)

    async def job(self, request: web.Request) -> web.Response:
        """How far a fork is."""
        number = integer(request.match_info, "job")
        if number not in self.forking.jobs:
            raise UserError(f"no fork has the number {number}: it was asked for from another server")
        return reply(self.forking.jobs[number].data())

    async def close(self, _: web.Application) -> None:
        """End threads and connections."""
        self.forking.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.runs.close()


def make_app(runs: Runs, *, fork: Fork | None = None) -> web.Application:
    """Return the server of an inspector over runs.

    Args:
        runs: What it shows.
        fork: How an episode is continued from a turn on; None: the page says that it cannot.
    """
    inspector = Inspector(runs=runs, forking=Forking(fork=fork))
    app = web.Application(client_max_size=MOST_BYTES, middlewares=[_errors])
    guard.install(app)
    app.on_cleanup.append(inspector.close)
    get, of_run = app.router.add_get, "/api/runs/{run}"
    get("/static/{name}", inspector.static)
    get("/api/runs", inspector.list_runs)
    get(of_run, inspector.run)
    screens = (inspector.steps, inspector.groups, inspector.shift, inspector.timeline, inspector.count)
    for screen in (*screens, inspector.episode, inspector.tokens, inspector.group, inspector.live):
        get(f"{of_run}/{screen.__name__}", screen)
    get(f"{of_run}/episodes", inspector.list)
    get("/api/compare", inspector.compare)
    get("/api/jobs/{job}", inspector.job)
    app.router.add_post("/api/episodes/{episode:.+}/fork", inspector.fork)
    get("/{page:.*}", inspector.page)
    return app


@web.middleware
async def _errors(request: web.Request, handler: guard.Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except FilterError as error:
        return reply({"error": str(error), "start": error.start, "end": error.end}, status=400)
    except NoRunError as error:
        return reply({"error": str(error)}, status=404)
    except UserError as error:
        return reply({"error": str(error)}, status=400)
    except AgentGRPOError as error:
        return reply({"error": str(error)}, status=500)
    except sqlite3.Error as error:
        message = f"the episodes cannot be read: {error}. `agentgrpo train --resume` mends a damaged file."
        return reply({"error": message}, status=500)
    except TimeoutError:
        return reply({"error": f"no answer within {ANSWER_SECONDS:g} s: narrow the filter"}, status=503)


def reply(data: Any, *, status: int = 200) -> web.Response:
    """Return data as JSON; numbers JSON does not have are null."""
    text = json.dumps(without_nan(data), separators=(",", ":"), default=str)
    return web.Response(text=text, status=status, content_type="application/json")


def text_of(query: Mapping[str, str], name: str) -> str:
    """Return a parameter that must be there."""
    if not query.get(name):
        raise UserError(f"'{name}' is missing from the address")
    return query[name]


def integer(query: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a whole number."""
    text = query.get(name, "" if default is None else str(default))
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**62:
        raise UserError(f"'{name}={text}' is no whole number from 0 on")
    return value


def span(query: Mapping[str, str], name: str) -> tuple[int, int]:
    """Return two whole numbers, written 3..7."""
    first, _, last = query.get(name, "").partition("..")
    numbers = {"first": first, "last": last or first}
    return integer(numbers, "first"), integer(numbers, "last")


def phase_of(query: Mapping[str, str]) -> Phase:
    """Return a phase; training where none is named."""
    for phase in get_args(Phase):
        if query.get("phase", "train") == phase:
            return cast(Phase, phase)
    raise UserError(f"'phase={query['phase']}' is none of {', '.join(get_args(Phase))}")
