"""The card that notebooks show: its content, and that nothing that a server sends takes effect there."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from anyapi_midjourney import Midjourney, Task, sandbox
from anyapi_midjourney._notebook import card
from anyapi_midjourney._text import format_duration
from anyapi_midjourney_generated import models
from clients import CASES, EXAMPLE, example

TASKS = {name: case["body"] for name, case in CASES.items() if "status" in (case.get("body") or ())}
PICTURE = "https://pictures.example/pig.png"
RUNS = "window.pwned=1"
WORDS = {
    "script": f"<script>{RUNS}</script>",
    "handler": f'"><img src=x onerror="{RUNS}">',
    "attribute": f"\" autofocus tabindex=0 onfocus='{RUNS}' onmouseover='{RUNS}' style='position:fixed;inset:0' x=\"",
    "svg": f"</span></div></div></section><svg onload='{RUNS}'><animate onbegin='{RUNS}' attributeName=x dur=1s>",
    "frame": f'<iframe srcdoc="<script>parent.{RUNS}</script>"></iframe><object data="https://evil.example/">',
    "page": '<base href="https://evil.example/"><meta http-equiv="refresh" content="0;url=https://evil.example/">',
    "style": "</div><style>* { display: none } @import 'https://evil.example/x';</style><link rel=stylesheet href=/x>",
    "form": f'<form action="https://evil.example/"><input name=key autofocus><details open ontoggle="{RUNS}">',
    "entities": f"&lt;script&gt;{RUNS}&lt;/script&gt; &#34; onload=&#34;{RUNS} &quot;><script>{RUNS}</script>",
    "comment": f"<!--><script>{RUNS}</script>--> <![CDATA[ <textarea> <plaintext> </title>",
    "tower": "Z" + "\u0301" * 600 + " tower",
    "joined tower": "Z" + "\u0301\u0301\u0301\u200d" * 200 + " tower",
    "marks": "Z" + "\u0310\u0321\u0489" * 200,
    "reordering": "safe \u202egnp.exe\u202d \u2066\u2067\u2069\u2069\u2069\u202c \u0645\u0631\u062d\u0628\u0627 back",
    "right to left": "\u062e\u0646\u0632\u064a\u0631 --ar 16:9 (\u0645\u0631\u062d\u0628\u0627)",
    "endless": "W" * 100_000,
    "endless wide": "\ufdfd\u2e3b\U00012219" * 30_000,
    "lines": "line\n" * 50_000,
    "blanks": "a" + "\u00a0" * 5000 + "b" + "\t" * 5000 + "c" + "\u3000" * 5000,
    "controls": "".join(map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029, 0xD800, 0xDFFF, 0xFEFF))),
    "emoji": "👩\u200d❤️\u200d💋\u200d👩 1️⃣🖌️ 一只粉红色的猪在田野里，超现实主义 नमस्ते שָׁלוֹם",
}
"""Texts for every field."""
NO_ADDRESSES = [
    *(
        f"javascript:{RUNS} JaVaScRiPt://pictures.example/%0a{RUNS} blob:https://pictures.example/1 https:x.example "
        "http://pictures.example/pig.png //pictures.example/pig.png /mj/image/1 https:/\\evil.example/ https://[ "
        "https://user:word@evil.example/ https://evil.example\\@pictures.example/ https://evil.example:99999/ "
        "https://127.0.0.1/ https://127%2e0.0.1/ https://\uff11\uff12\uff17.0.0.1/ https://a.%6cocalhost/ "
        "https://[::1]/ https://2130706433/ https://intranet/ https://evil.example/\u202egnp.x https://"
    ).split(),
    *("https://evil\t.example/", " https://evil.example/", "https://evil.example/a b"),
    f"data:text/html,<script>parent.{RUNS}</script>",
    "https://evil.example/" + "x" * 100_000,
]
"""URLs that a browser must not open."""


def with_word(word: str) -> Task:
    """A task with one text in every field."""
    names = ("id", "action", "status", "progress", "prompt", "promptEn", "state", "failReason", "videoUrl")
    button = {"customId": word, "emoji": f"🔄{word}", "label": word, "style": 5, "url": word}
    return example(
        **dict.fromkeys(names, word),
        imageUrl=PICTURE,
        videoUrls=[{"url": f"{word}#"}],
        properties={"finalPrompt": f"final {word}"},
        buttons=[button, button | {"style": 1}, button | {"label": None}, button | {"label": "", "emoji": ""}],
    )


def with_address(address: str) -> Task:
    """A task whose addresses are all of one form."""
    buttons = [{"label": "Web", "style": 5, "url": address}]
    return example(imageUrl=address, videoUrl=f"{address}#", videoUrls=[{"url": f"{address}#2"}], buttons=buttons)


def crowd(number: int, word: str = "") -> Task:
    """A task with many of what there can be many of."""
    videos = [{"url": f"https://videos.example/{n}{word}"} for n in range(number)]
    button = {"label": word or "U1", "style": 5, "url": f"https://links.example/{word}"}
    return example(imageUrl=PICTURE, buttons=[button] * number, videoUrls=videos)


ALLOWED = {
    "div": {"dir", "style"},
    "span": {"dir", "style"},
    "a": {"href", "target", "rel", "style"},
    "img": {"src", "alt", "referrerpolicy", "crossorigin", "style"},
}


class Card(HTMLParser):
    """A card, taken apart. Anything that it may not hold is an error."""

    def __init__(self, shown: Task) -> None:
        super().__init__()
        self.html = card(shown)
        self.origin = shown.base_url.removesuffix("/mj-fast")
        self.texts: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.html.encode()
        self.feed(self.html)
        self.close()
        assert not self._open
        assert len(self.pictures) <= 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert attributes.keys() <= ALLOWED[tag]
        assert len(attributes) == len(attrs)
        assert attributes.get("dir", "auto") in ("auto", "ltr")
        assert re.fullmatch(r"[a-z0-9:;#%.,() -]+", attributes["style"] or "")
        assert "url" not in (attributes["style"] or "")
        self.styles.append(attributes["style"] or "")
        if tag == "a":
            assert (attributes["target"], attributes["rel"]) == ("_blank", "noopener noreferrer")
            self.links.append(attributes["href"] or "")
        if tag == "img":
            assert attributes["referrerpolicy"] == "no-referrer"
            self.pictures.append(attributes)
        else:
            self._open.append(tag)
        for url in (attributes.get("href"), attributes.get("src")):
            is_own = "crossorigin" in attributes and url and url.startswith(f"{self.origin}/mj/image/")
            assert url is None or is_own or re.match(r"https://[^/@\s\\]+(/|$)", url)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def _refuse(self, data: str) -> None:
        raise AssertionError(data)

    handle_comment = handle_pi = unknown_decl = _refuse

    def handle_decl(self, decl: str) -> None:
        self._refuse(decl)

    @property
    def text(self) -> str:
        return "|".join(self.texts)


@pytest.mark.parametrize("name", TASKS)
def test_every_known_task_has_a_card(name: str) -> None:
    shown = Task.from_model(models.Task.from_dict(TASKS[name]), "asked-for")
    assert shown._repr_html_() == Card(shown).html  # pyright: ignore[reportPrivateUsage]  (notebooks call it)
    parts = Card(shown).texts
    for text in (shown.status or "ACCEPTED", shown.id, shown.action, shown.prompt, shown.fail_reason):
        assert text is None or text in parts
    assert len(Card(shown).html) < 8000


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_hostile_words_are_text(word: str) -> None:
    assert Card(with_word(word)).links == [PICTURE]


HOSTILE = st.lists(
    st.text(st.characters()) | st.sampled_from([*WORDS.values(), *NO_ADDRESSES, PICTURE, "<", "'", '"', "&", "\n"])
).map("".join)


@given(HOSTILE, HOSTILE, st.data())
def test_nothing_that_a_server_sends_takes_effect(word: str, address: str, data: st.DataObject) -> None:
    Card(with_word(word))
    Card(with_address(address))
    Card(with_address(f"https://pictures.example/{address}"))
    fields = dict.fromkeys(EXAMPLE, HOSTILE | st.sampled_from(["SUCCESS", "MODAL", "62%", "1730621826053"]))
    Card(Task.from_model(models.Task.from_dict(data.draw(st.fixed_dictionaries({}, optional=fields)))))


@given(st.text(st.characters(exclude_categories=["C", "M", "Z"]), min_size=1))
def test_words_are_shown_as_they_are(word: str) -> None:
    parts = Card(example(prompt=word, failReason=f"{word} failed", status="FAILURE", state=word[:80])).texts
    assert word in parts
    assert f"{word} failed" in parts
    assert word[:80] in parts


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_an_unsafe_url_is_text(address: str) -> None:
    shown = Card(with_address(address))
    assert (shown.links, shown.pictures) == ([], [])
    assert "Picture: " in shown.text
    assert "Video 2: " in shown.text


def test_the_picture_links_to_itself_until_its_link_expires() -> None:
    shown = Card(example())
    (picture,) = shown.pictures
    assert picture["src"] == EXAMPLE["imageUrl"]
    assert picture["alt"] == "Picture: pig --v 6.1"
    assert shown.links == [EXAMPLE["imageUrl"]]
    assert "Link expired on 2024-11-04 08:17:35 UTC" in shown.texts
    later = EXAMPLE["imageUrl"].replace("ex=6728831f", "ex=f0000000")
    assert "Link works until 2097-08-05 09:04:00 UTC" in Card(example(imageUrl=later)).texts
    quotes = f"{PICTURE}?\"onerror='{RUNS}'<>&amp;"
    assert Card(example(imageUrl=quotes)).pictures[0]["src"] == quotes


def test_pictures_of_the_gateway_itself_are_shown_and_no_others_of_this_machine() -> None:
    with sandbox.serve(finished=True) as base_url, Midjourney(sandbox.API_KEY, base_url=f"{base_url}/mj-fast") as mj:
        grid, video = mj.fetch("success"), mj.fetch("video")
    assert [picture["src"] for picture in Card(grid).pictures] == [f"{base_url}/mj/image/success"]
    assert "crossorigin" in Card(grid).pictures[0]  # or a browser would send the cookies of a notebook on this host
    assert Card(grid).links == Card(video).links == []
    own, others = f"{base_url}/mj/image", [f"{base_url}0", "http://127.0.0.1", base_url.replace("//", "//x@"), ""]
    refused = [f"{other}/mj/image/success" for other in others]
    for url in (*refused, f"{base_url}/admin", f"{own}/../admin", f"{own}/x#y", f"{own}/x\\y", f"{own}/{'x' * 9999}"):
        assert Card(evolve(grid, image_url=url)).pictures == []


@pytest.mark.parametrize("url", ["https://v.example/x.mp4", "https://v.example/x.WebM?a#b"])
def test_a_video_is_a_link_and_comes_before_the_picture(url: str) -> None:
    for fields in ({"imageUrl": url}, {"imageUrl": url, "videoUrl": url}, {"imageUrl": PICTURE, "videoUrl": PICTURE}):
        shown = Card(example(**fields))
        assert (shown.links, shown.pictures) == ([fields["imageUrl"]], [])
        assert "Video 1" in shown.texts
    both = Card(example(imageUrl=PICTURE, videoUrl=url, videoUrls=[{"url": url}, {"url": f"{url}2"}]))
    assert both.links == [url, f"{url}2", PICTURE]
    assert [picture["src"] for picture in both.pictures] == [PICTURE]


def test_a_running_task_has_a_bar_and_a_preview_and_a_finished_one_has_neither() -> None:
    running = Card(example(status="IN_PROGRESS", progress="31%"))
    assert [style for style in running.styles if style.endswith("width:31%")]
    assert {"IN_PROGRESS", "31 %", "Preview"} <= set(running.texts)
    assert running.pictures[0]["alt"] == "Preview: pig --v 6.1"
    for status in ("SUCCESS", "FAILURE", "CANCEL"):
        done = Card(example(status=status, progress="31%"))
        assert "31" not in done.text
        assert not [style for style in done.styles if style.endswith("%")]


def test_buttons_stand_in_midjourneys_rows_and_pressed_ones_look_different() -> None:
    buttons = [button | {"style": n % 2 + 1} for n, button in enumerate(EXAMPLE["buttons"])]
    vary = {"customId": "MJ::JOB::low_variation::1::x::SOLO", "label": "Vary (Subtle)", "emoji": "🪄"}
    shown = Card(
        example(buttons=[*buttons, vary, {"label": "Web", "style": 5, "url": "https://midjourney.com/jobs/1"}])
    )
    html = re.sub(r"<span [^>]*>", "[", shown.html.replace("</span>", "]"))
    assert "[U1][U2][U3][U4][🔄]</div>" in html
    assert ">[V1][V2][V3][V4]</div>" in html
    assert ">[🪄 Vary (Subtle)]</div>" in html
    assert shown.links[1:] == ["https://midjourney.com/jobs/1"]
    pressed = {name: style for style, name in re.findall(r'style="([^"]*)">(U\d)<', shown.html)}
    assert pressed["U1"] == pressed["U3"] != pressed["U2"] == pressed["U4"]


def test_long_texts_and_lists_are_cut_visibly() -> None:
    shown = Card(crowd(1000))
    assert "… and 975 more" in shown.texts
    assert "… and 992 more" in shown.texts
    assert shown.text.count("U1") == 25
    assert max(Card(example(prompt="x" * 2001)).texts, key=len) == "x" * 2000 + "…"
    assert "Z\u0301\u0301\u0301\u0301 tower…" in Card(example(prompt=WORDS["tower"])).texts
    assert "Z\u0301\u0301\u0301\u200d\u0301 tower…" in Card(example(prompt=WORDS["joined tower"])).texts


@pytest.mark.parametrize("word", ['"' * 10**6, "&\n" * 10**6, "\u0310" * 10**6])
def test_the_size_of_a_card_is_limited(word: str) -> None:
    assert len(card(with_word(word))) < 100_000
    assert len(card(crowd(3000, word[:1900]))) < 400_000


def test_durations_are_in_words() -> None:
    seconds = (0, 2.04, 59.94, 59.96, 65, 3599.6, 11_040, 10**9)
    texts = "0.0 s, 2.0 s, 59.9 s, 1 min 0 s, 1 min 5 s, 1 h 0 min, 3 h 4 min, 277777 h 46 min"
    assert ", ".join(format_duration(timedelta(seconds=length)) for length in seconds) == texts
    assert "Submitted 2024-11-03 08:17:06 UTC · queued for 2.0 s · ran for 27.8 s" in Card(example()).texts
