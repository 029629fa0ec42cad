from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from aiohttp.test_utils import TestClient, TestServer

from agentgrpo.store import EpisodeReader, EpisodeStore, RunDirectory
from agentgrpo.viewer.guard import GUARD, HEADERS, TOKEN_HEADER
from agentgrpo.viewer.runs import Runs
from agentgrpo.viewer.server import make_app
from tests.store.strategies import make_key, make_trajectory

Client = TestClient[Any, Any]


@pytest.fixture
async def client(root: Path) -> AsyncIterator[Client]:
    async with TestClient(TestServer(make_app(Runs(root)), host="127.0.0.1")) as client:
        yield client


async def data(client: Client, path: str, **query: str) -> Any:
    async with client.get(path, params=query) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def refused(client: Client, path: str, status: int = 400, **query: str) -> str:
    async with client.get(path, params=query) as response:
        assert response.status == status
        return str((await response.json())["error"])


async def test_the_runs_are_listed_with_how_they_went(client: Client, run: RunDirectory) -> None:
    runs = (await data(client, "/api/runs"))["runs"]
    assert len(runs) == 2
    line = next(line for line in runs if line["name"] == run.path.name)
    assert (line["status"], line["steps"], line["planned"], line["episodes"]) == ("finished", 3, 3, 84)
    assert [step for step, _ in line["success"]] == [1, 2, 3]
    assert [step for step, _ in line["heldout"]] == [0, 3]


async def test_a_run_says_what_its_episodes_can_be_filtered_by(client: Client, run: RunDirectory) -> None:
    details = await data(client, f"/api/runs/{run.path.name}")
    assert details["config"]["train.steps"] == 3
    assert "refund_order" in details["words"]["tool"]
    assert {"name": "reward", "about": "reward", "example": "reward<0.2"} in details["fields"]


async def test_curves_have_every_step(client: Client, run: RunDirectory) -> None:
    found = await data(client, f"/api/runs/{run.path.name}/steps")
    assert found["train"]["steps"] == [1, 2, 3]
    assert found["train"]["episodes"] == [12, 12, 12]
    assert found["eval"]["steps"] == [0, 3]
    assert found["metrics"]["steps"] == [1, 2, 3]
    assert all(value is not None for value in found["metrics"]["series"]["train/kl"])
    assert {row["value"] for row in found["facets"]["train"]["tool"]} >= {"find_customer"}


async def test_a_list_goes_on_where_its_page_ended(client: Client, run: RunDirectory) -> None:
    path = f"/api/runs/{run.path.name}/episodes"
    whole = await data(client, path, order="reward", way="up", limit="500")
    first = await data(client, path, order="reward", way="up", limit="50")
    rest = await data(client, path, order="reward", way="up", limit="50", after=str(first["rows"][-1]["id"]))
    assert (first["more"], rest["more"]) == (True, False)
    assert first["rows"] + rest["rows"] == whole["rows"]
    assert len(whole["rows"]) == 84


async def test_a_filter_finds_and_counts_the_same(client: Client, run: RunDirectory) -> None:
    query = {"filter": "phase:train tool:find reward>=1"}
    found = await data(client, f"/api/runs/{run.path.name}/episodes", limit="500", **query)
    counted = await data(client, f"/api/runs/{run.path.name}/count", **query)
    assert 0 < counted["count"] == len(found["rows"]) < counted["total"] == 84
    assert all(row["success"] for row in found["rows"])


async def test_a_mistake_in_a_filter_is_shown_where_it_is(client: Client, run: RunDirectory) -> None:
    async with client.get(f"/api/runs/{run.path.name}/episodes", params={"filter": "step:1 rewrad<1"}) as response:
        answer = await response.json()
    assert response.status == 400
    assert answer["error"].startswith("there is nothing called 'rewrad' to filter by. Did you mean 'reward'?")
    assert (answer["start"], answer["end"]) == (7, 13)


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("episodes", {"order": "size"}, "cannot be sorted by 'size'"),
        ("episodes", {"limit": "many"}, "'limit=many' is no whole number"),
        ("episodes", {"after": "-3"}, "'after=-3' is no whole number"),
        ("episode", {}, "'episode' is missing from the address"),
        ("episode", {"episode": "train/1/none/0"}, "no episode"),
        ("episode", {"episode": "nothing"}, "'nothing' names no episode"),
        ("groups", {"step": "1", "phase": "tests"}, "'phase=tests' is none of"),
    ],
)
async def test_mistakes_are_told(client: Client, run: RunDirectory, path: str, query: Any, message: str) -> None:
    assert message in await refused(client, f"/api/runs/{run.path.name}/{path}", **query)


@pytest.mark.parametrize("name", ["none", "..", "../..", "%2e%2e", "first/../first"])
async def test_no_path_is_made_of_a_name(client: Client, name: str) -> None:
    async with client.get(f"/api/runs/{quote(name, safe='')}") as response:
        assert response.status in (400, 404)
        assert "no run" in await response.text() or response.status == 404
    async with client.get(f"/static/{quote(f'{name}/server.py', safe='')}") as response:
        assert response.status == 404


async def test_an_episode_has_all_a_page_shows(client: Client, run: RunDirectory) -> None:
    with EpisodeReader(run.episodes) as reader:
        row = reader.list(limit=1)[0]
        stored = reader.get(row.id)
    found = await data(client, f"/api/runs/{run.path.name}/episode", episode=str(row.key))
    assert found["row"]["id"] == row.id
    assert len(found["turns"]) == len(stored.trajectory.turns) == row.turns
    assert found["prompt"] == list(stored.trajectory.prompt)
    assert sum(turn["sampled"] for turn in found["turns"]) == row.sampled_tokens
    assert found == await data(client, f"/api/runs/{run.path.name}/episode", episode=str(row.id))


async def test_a_group_is_aligned_by_turn(client: Client, run: RunDirectory) -> None:
    found = await data(client, f"/api/runs/{run.path.name}/group", episode="25")
    assert (found["size"], len(found["columns"])) == (4, 4)
    assert [column["row"]["sample"] for column in found["columns"]] == [0, 1, 2, 3]
    assert all(len(column["branches"]) == len(column["turns"]) for column in found["columns"])


async def test_episodes_of_two_runs_stand_side_by_side(client: Client) -> None:
    names = await _names(client)
    picks = [("pick", f"{name} 1") for name in names]
    async with client.get("/api/compare", params=picks) as response:
        assert [column["run"] for column in (await response.json())["columns"]] == names


async def test_a_timeline_has_the_episodes_of_a_step_in_order(client: Client, run: RunDirectory) -> None:
    found = await data(client, f"/api/runs/{run.path.name}/timeline", step="2")
    starts = [episode["start"] for episode in found["episodes"]]
    assert len(starts) == 12
    assert starts == sorted(starts)
    assert starts[0] == 0


async def _names(client: Client) -> list[str]:
    return sorted(line["name"] for line in (await data(client, "/api/runs"))["runs"])


async def test_what_changed_is_found_between_two_spans(client: Client) -> None:
    name = (await _names(client))[1]
    found = await data(client, f"/api/runs/{name}/shift", before="1", after="2..3")
    assert found["before"]["episodes"] == 12
    assert found["after"]["episodes"] == 24
    assert {"changed", "turns", "errors", "success"} <= set(found["shifts"][0]["after"])


async def test_the_stream_tells_when_something_was_written(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path, "live")
    with EpisodeStore(directory.episodes) as store:
        store.add_sync([make_trajectory()])
        async with (
            TestClient(TestServer(make_app(Runs(tmp_path)), host="127.0.0.1")) as client,
            client.get(f"/api/runs/{directory.path.name}/live", timeout=ClientTimeout(total=60)) as response,
        ):
            assert response.headers["Content-Type"] == "text/event-stream"
            before = await _event(response)
            store.add_sync([make_trajectory(make_key(4))])
            after = await _event(response)
    assert before != after


async def _event(response: ClientResponse) -> Any:
    async for line in response.content:
        if line.startswith(b"data: "):
            return json.loads(line[6:])
    raise AssertionError("the stream ended")


REFUSED = [
    ({"Host": "evil.example"}, "the Host 'evil.example' is not this machine"),
    ({"Host": "evil.example:80"}, "the Host 'evil.example:80' is not this machine"),
    ({"Host": "127.0.0.1.evil.example"}, "is not this machine"),
    ({"Host": "localhost.evil.example:1"}, "is not this machine"),
    ({"Host": ""}, "is not this machine"),
    ({"Origin": "http://evil.example"}, "a page of 'http://evil.example' asked"),
    ({"Origin": "null"}, "a page of 'null' asked"),
    ({"Origin": "http://127.0.0.1:1"}, "only pages of this server may"),
    ({"Sec-Fetch-Site": "cross-site"}, "a page of another site asked"),
    ({"Sec-Fetch-Site": "same-site"}, "a page of another site asked"),
]


@pytest.mark.parametrize("path", ["/", "/api/runs", "/static/page.js"])
@pytest.mark.parametrize(("headers", "message"), REFUSED)
async def test_foreign_hosts_and_origins_are_refused(
    client: Client, path: str, headers: dict[str, str], message: str
) -> None:
    async with ClientSession() as session, session.get(client.make_url(path), headers=headers) as response:
        assert response.status == 403
        assert message in (await response.json())["error"]


async def test_what_changes_something_needs_our_page(client: Client) -> None:
    url, body = client.make_url("/api/episodes/1/fork?run=none"), {"turn": 1}
    origin = {"Origin": str(client.make_url("/").origin())}
    token = {TOKEN_HEADER: client.app[GUARD].token}
    answers = []
    for headers in ({}, token, origin, origin | {TOKEN_HEADER: "guessed"}, origin | token):
        async with ClientSession() as session, session.post(url, headers=headers, json=body) as response:
            answers.append((response.status, (await response.json())["error"]))
    assert [status for status, _ in answers] == [403, 403, 403, 403, 404]
    assert "say its Origin" in answers[1][1]
    assert "the token is missing or of another server" in answers[2][1]
    assert answers[4][1].startswith("no run 'none'")


async def test_every_answer_keeps_to_itself(client: Client) -> None:
    for path in ("/", "/r/any/episodes", "/api/runs", "/static/page.css", "/api/nothing"):
        async with client.get(path) as response:
            assert {name: response.headers[name] for name in HEADERS if name != "Cache-Control"} == {
                name: value for name, value in HEADERS.items() if name != "Cache-Control"
            }


async def test_the_page_asks_for_files_of_this_server_only(client: Client) -> None:
    async with client.get("/") as response:
        page = await response.text()
    assert "{{" not in page
    assert "://" not in page
    for name in ("page.js", "page.css", "mark.svg"):
        async with client.get(f"/static/{name}") as response:
            tag = response.headers["ETag"]
            assert response.status == 200
        async with client.get(f"/static/{name}", headers={"If-None-Match": tag}) as response:
            assert response.status == 304


async def test_a_server_without_a_way_to_fork_says_so(client: Client, run: RunDirectory) -> None:
    headers = {"Origin": str(client.make_url("/").origin()), TOKEN_HEADER: client.app[GUARD].token}
    async with client.post(f"/api/episodes/1/fork?run={run.path.name}", headers=headers, json={"turn": 1}) as response:
        assert "without a way to fork" in (await response.json())["error"]
