from __future__ import annotations

import re
from collections import Counter
from importlib import resources

import pytest

from agentgrpo.viewer.assets import SCRIPT, assets, script
from agentgrpo.viewer.page import ENTRY, embedded, episode_page

SCRIPTS = {"inspector": assets()[SCRIPT].text, "export": script(ENTRY)}
MOST_BYTES = 150 * 1024
_FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|https?://(?!www\.w3)"
)


def test_scripts_and_styles_stay_small() -> None:
    size = len(assets()[SCRIPT].body)
    assert size < MOST_BYTES, f"{size:,} bytes of modules"


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_text_becomes_html_and_nothing_is_asked_for_elsewhere(name: str) -> None:
    assert _FORBIDDEN.findall(SCRIPTS[name]) == []


def test_every_module_goes_out_with_a_page() -> None:
    files = [file for file in resources.files("agentgrpo.viewer").joinpath("static").iterdir() if ".js" in file.name]
    heads = [file.read_text(encoding="utf-8").splitlines()[0] for file in files]
    assert len(heads) > 20 and all(any(head in text for text in SCRIPTS.values()) for head in heads)


@pytest.mark.parametrize("name", sorted(assets()))
def test_no_file_names_another_host(name: str) -> None:
    hosts = {host for host in re.findall(r"(?:https?:)?//([\w.-]+\.\w+)", assets()[name].text) if host != "www.w3.org"}
    assert hosts == set()


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_two_modules_of_a_page_give_things_the_same_name(name: str) -> None:
    text = SCRIPTS[name]
    names = Counter(re.findall(r"^(?:async )?(?:const|let|function|class) (\w+)", text, re.MULTILINE))
    names.update(
        name
        for group in re.findall(r"^(?:const|let) [\[{]([^=]*)[\]}] =", text, re.MULTILINE)
        for name in re.findall(r"\w+", group)
    )
    assert [name for name, count in names.items() if count > 1] == []
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)


def test_data_in_a_page_cannot_end_its_element() -> None:
    page = embedded({"a": "</script><script>alert(1)</script>", "b": "\ud800", "c": float("nan")})
    assert not set("<>&") & set(page)


def test_a_page_of_episodes_names_them_and_forbids_all_requests() -> None:
    row = {"key": "train/1/<b>/0"}
    page = episode_page({"row": row})
    assert "<title>train/1/&lt;b&gt;/0 · agentgrpo</title>" in page
    assert "default-src 'none'" in page
    assert "2 episodes" in episode_page([{"row": row}, {"row": row}])
