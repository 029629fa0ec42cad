from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.envs.rows import SPLITS
from agentgrpo.envs.shop.env import Shop
from agentgrpo.envs.shop.templates import HELDOUT_TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.envs.shop.world import AMOUNTS, CUSTOMER_IDS, FIRST_NAMES, LAST_NAMES, ORDER_IDS, PRODUCTS, STREETS
from agentgrpo.errors import EnvError
from agentgrpo.registry import resolve_env
from agentgrpo.tools.appstate import patch
from agentgrpo.tools.shop import REASONS, STATUSES
from agentgrpo.types import JsonObject
from tests.envs.playing import do, finish, one_of_each, row_of, solve, start, words

ONE_OF_EACH = one_of_each(Shop)
ROWS = {split: Shop.tasks(split) for split in SPLITS}


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    env = Shop()
    yield env
    env.close()


@pytest.fixture(scope="module")
def solved(shop: Shop) -> dict[str, dict[str, tuple[float, list[str]]]]:
    """Every row's reward and texts with the oracle at quality 1, by split and task id."""
    return {split: {row["task_id"]: solve(shop, row) for row in rows} for split, rows in ROWS.items()}


def test_heldout_parts_occur_in_training_and_heldout_names_do_not() -> None:
    trained = {(t.selector.name, t.effect.name) for t in TRAIN_TEMPLATES}
    for template in HELDOUT_TEMPLATES:
        assert template.selector.name in {selector for selector, _ in trained}
        assert template.effect.name in {effect for _, effect in trained}
    names = {split: {row["goal"]["name"] for row in rows if "name" in row["goal"]} for split, rows in ROWS.items()}
    assert not names["train"] & (names["heldout"] | names["heldout_templates"])


def test_rows_are_small_json_and_do_not_say_which_order() -> None:
    for rows in ROWS.values():
        for row in rows:
            assert len(json.dumps(row)) < 400
            assert ("order" in row["goal"]) == row["template"].endswith("_id")


def test_inventory_has_no_word_with_two_meanings() -> None:
    pools = (FIRST_NAMES, LAST_NAMES, PRODUCTS, STREETS, ORDER_IDS, CUSTOMER_IDS, [str(n) for n in AMOUNTS])
    everything = [word for pool in (*pools, REASONS, STATUSES) for word in pool]
    assert len(everything) == len(set(everything))


def test_oracle_solves_every_row(solved: dict[str, dict[str, tuple[float, list[str]]]]) -> None:
    failed = [task_id for rows in solved.values() for task_id, (reward, _) in rows.items() if reward != 1.0]
    assert failed == []


def test_every_heldout_word_is_a_training_word(solved: dict[str, dict[str, tuple[float, list[str]]]]) -> None:
    known, heldout, new = (words([text for _, said in solved[split].values() for text in said]) for split in SPLITS)
    assert heldout | new <= known


def test_episodes_are_short(solved: dict[str, dict[str, tuple[float, list[str]]]]) -> None:
    sizes = [sum(map(len, said)) for rows in solved.values() for _, said in rows.values()]
    assert max(sizes) < 1000
    assert sum(sizes) / len(sizes) < 500


def test_random_clerk_earns_about_nothing(shop: Shop) -> None:
    rng = random.Random(0)
    rewards = []
    for row in ROWS["train"][:216]:
        offered = shop.reset(options={"task": row})[1]["tools"]
        seen = [*REASONS, *re.findall(r"\w+", row["instruction"])]
        for _ in range(rng.randrange(6)):
            function = rng.choice(offered)["function"]
            arguments = {name: rng.choice(seen) for name in function["parameters"]["properties"]}
            seen += re.findall(r"\w+", json.dumps(do(shop, function["name"], **arguments)))
        rewards.append(finish(shop, rng.choice(seen))[0])
    assert -0.2 < sum(rewards) / len(rewards) < 0.05


def test_a_worse_clerk_earns_less(shop: Shop) -> None:
    rows = ROWS["train"][:108]
    means = [sum(solve(shop, row, quality, i)[0] for i, row in enumerate(rows)) / len(rows) for quality in (1, 0.5, 0)]
    assert means[0] == 1.0 > means[1] > means[2] > 0


def test_a_side_effect_costs_and_voids_the_outcome(shop: Shop) -> None:
    row = next(row for row in ROWS["train"] if row["template"] == "cancel_item")
    start(shop, row)
    customer = do(shop, "find_customer", name=row["goal"]["name"])["customer"]
    wanted = next(o for o in do(shop, "list_orders", customer=customer) if o["item"] == row["goal"]["item"])
    do(shop, "cancel_order", order=wanted["order"])
    assert finish(shop) == (1.0, {"outcome": 1.0, "side_effects": 0.0})
    do(shop, "add_address", customer=customer, street="Nowhere")
    assert finish(shop) == (-0.5, {"outcome": 0.0, "side_effects": -0.5})


def test_part_of_the_way_is_no_side_effect(shop: Shop) -> None:
    row = row_of(Shop, "send_new_item")
    start(shop, row)
    customer = do(shop, "find_customer", name=row["goal"]["name"])["customer"]
    do(shop, "add_address", customer=customer, street=row["goal"]["street"])
    assert finish(shop) == (0.0, {"outcome": 0.0, "side_effects": 0.0})


@pytest.mark.parametrize(("said", "reward"), [("{}", 1.0), (" {}. ", 1.0), ("${}", 1.0), ("about {}", 0.0), ("", 0.0)])
def test_the_answer_counts(shop: Shop, said: str, reward: float) -> None:
    row = row_of(Shop, "paid_id")
    start(shop, row)
    paid = do(shop, "get_order", order=row["goal"]["order"])["paid"]
    assert finish(shop, said.format(paid))[0] == reward


def test_a_refused_call_is_told_and_changes_nothing(shop: Shop) -> None:
    start(shop, row_of(Shop, "refund_id"))
    before = shop.state_hash()
    result = do(shop, "refund_order", order=shop.task["goal"]["order"], amount=1, reason="bored")
    assert result["error"]["type"] == "tool_error"
    assert shop.state_hash() == before


def test_fork_is_independent_and_fast() -> None:
    env, fork = Shop(), Shop()
    row = row_of(Shop, "cancel_id")
    start(env, row)
    began = time.thread_time()
    fork.restore(env.snapshot())
    assert time.thread_time() - began < 1.0
    do(fork, "cancel_order", order=row["goal"]["order"])
    assert fork.state_hash() != env.state_hash()
    assert finish(env)[0] == 0.0
    assert finish(fork)[0] == 1.0


CALLS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(("cancel_order", "get_order")), st.integers(0, 20)),
        st.tuples(st.sampled_from(("set_address", "swap_item", "refund_order", "add_address")), st.integers(0, 20)),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ONE_OF_EACH), CALLS, st.randoms(use_true_random=False))
def test_hash_and_diff_stay_exact(row: JsonObject, calls: list[tuple[str, int]], rng: random.Random) -> None:
    env = Shop()
    start(env, row)
    env.state_diff()
    before = env.state()
    for name, index in calls:
        orders = sorted(before["orders"])
        order = orders[index % len(orders)]
        customer = before["orders"][order]["customer"]
        arguments: dict[str, dict[str, Any]] = {
            "set_address": {"order": order, "street": rng.choice(env.app.list_addresses(customer))},
            "swap_item": {"order": order, "item": rng.choice(PRODUCTS)},
            "refund_order": {"order": order, "amount": rng.randrange(40), "reason": rng.choice(REASONS)},
            "add_address": {"customer": customer, "street": rng.choice(STREETS)},
        }
        env.step(json.dumps(env.call(name, **arguments.get(name, {"order": order}))))
        assert env.state_hash() == env.app.content_hash()
    fresh = Shop()
    fresh.restore(env.snapshot())
    assert fresh.state_hash() == env.state_hash()
    assert patch(before, env.state()) == patch(before, fresh.state())


def test_templates_and_levels_choose_rows() -> None:
    rows = Shop.tasks("train", templates=["cancel_item", "refund_item"], levels=[3])
    assert {row["template"] for row in rows} == {"refund_item"}
    env = Shop(
        templates=["refund_item"], tools=["find_customer", "find_order", "list_orders", "get_order", "refund_order"]
    )
    info = env.reset(seed=1)[1]
    assert env.task["template"] == "refund_item"
    assert len(info["tools"]) == 5


def test_it_is_found_by_name_and_keeps_its_choice() -> None:
    source = resolve_env(
        "shop",
        levels=[2],
        tools=["find_customer", "find_order", "list_orders", "get_order", "cancel_order"],
        templates=["cancel_item", "paid_item", "paid_pending"],
    )
    assert source.isolation == "inline"
    assert {row["template"] for row in source.tasks("train")} == {"cancel_item", "paid_item"}
    assert {row["template"] for row in source.tasks("heldout_templates")} == {"paid_pending"}
    env = source.make()
    messages = env.reset(seed=1, options={"task": source.tasks("heldout")[0]})[1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    env.close()


def test_tools_that_do_not_do_are_refused() -> None:
    with pytest.raises(EnvError, match="need the tool 'find_order'"):
        Shop(templates=["cancel_item", "paid_pending"], tools=["find_customer", "list_orders", "cancel_order"])
