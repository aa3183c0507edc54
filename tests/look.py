"""Takes pictures of all that people see: cards, the terminal, the README's picture and the site of `make docs`.

Fails if a task has an effect in a browser, if a request would leave the machine, or if a page is wider than its window.
Cards show ordinary and hostile tasks, in light and dark, wide and narrow.
"""

from __future__ import annotations

import html
import os
import shutil
import sys
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import anyio
import httpx
from playwright.sync_api import sync_playwright
from rich.text import Text

from anyapi_midjourney import AsyncMidjourney, Task, sandbox
from anyapi_midjourney._notebook import card
from anyapi_midjourney_generated import models
from clients import EXAMPLE, ROOT, example
from terminal import Terminal, environment, picture, run
from test_notebook import NO_ADDRESSES, PICTURE, RUNS, TASKS, WORDS, crowd, with_address, with_word

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Dialog, Page, Route

SHOTS = ROOT / "build" / "look"
PAGE = "https://gallery.example/"
THEMES = {"light": "background: #fff; color: #3b3b3b", "dark": "background: #1f1f1f; color: #ccc"}  # VS Code's
WIDTHS = {"wide": 1120, "narrow": 360}
TILE = 4000
"""Pixels of height in one screenshot."""
PIXELS = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
GIANT = "https://pictures.example/giant.svg"
GIANT_PIXELS = '<svg xmlns="http://www.w3.org/2000/svg" width="9000" height="90000" style="background: teal"/>'
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SEEN_BY_PAGE = """() => {
  const findings = [];
  const numbers = text => { const all = text.match(/[\\d.]+/g).map(Number); return [...all, 1].slice(0, 4); };
  const over = (top, under, alpha) => top.slice(0, 3).map((c, i) => c * alpha + under[i] * (1 - alpha));
  const light = colour => colour.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const contrast = element => {
    const styles = [];
    for (let e = element; e; e = e.parentElement) styles.unshift(getComputedStyle(e));
    let ground = [255, 255, 255], opacity = 1;
    for (const style of styles) {
      const colour = numbers(style.backgroundColor);
      opacity *= style.opacity;
      ground = over(colour, ground, colour[3] * opacity);
    }
    const colour = numbers(styles.at(-1).color);
    const [low, high] = [light(ground), light(over(colour, ground, colour[3] * opacity))].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  };
  for (const section of document.querySelectorAll("section")) {
    const say = text => findings.push(`${section.title}: ${text}`);
    const card = section.firstElementChild, edge = card.getBoundingClientRect();
    if (section.childNodes.length !== 1 || section.parentElement !== document.body) say("breaks out of its card");
    if (edge.width > 514 || edge.height > 2500) say(`is ${edge.width} × ${edge.height} pixels large`);
    for (const element of [card, ...card.querySelectorAll("*")]) {
      const name = element.localName, box = element.getBoundingClientRect(), url = element.href || element.src;
      if (element.clientWidth && element.scrollWidth > element.clientWidth + 1)
        say(`a ${name} of ${element.clientWidth} pixels holds ${element.scrollWidth}`);
      if (box.left < edge.left || box.right > edge.right || box.top < edge.top || box.bottom > edge.bottom)
        say(`a ${name} lies outside the card`);
      if (!["div", "span", "a", "img"].includes(name)) say(`has a ${name}`);
      if (url && !/^https:[/][/][^/@]+[/]/.test(url)) say(`leads to ${url.slice(0, 99)}`);
      if (name === "a" && element.rel !== "noopener noreferrer") say("a link tells where it is");
      if ([...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && contrast(element) < 4.5)
        say(`contrast of ${contrast(element).toFixed(2)} in ${element.textContent.slice(0, 40)}`);
      for (const kind of ["mouseover", "mouseenter", "focus", "load", "error", "toggle", "begin", "click"])
        element.dispatchEvent(new Event(kind));
    }
  }
  if (window.pwned) findings.push("a script ran");
  return [...new Set(findings)];
}"""


async def sandbox_tasks() -> list[tuple[str, Task]]:
    """Each task of the sandbox, while it runs and when it has ended."""
    names = ("success", "failure", "modal", "describe", "upscale", "video", "never")
    found, now = list[tuple[str, Task]](), 0.0
    transport = httpx.ASGITransport(sandbox.app(clock=lambda: now))
    async with AsyncMidjourney(sandbox.API_KEY, base_url="https://pictures.example", transport=transport) as mj:
        for now in (0.0, 45.0, 90.0):
            found += [(f"{name} after {now:.0f} s", await mj.fetch(name)) for name in names]
    return found


def ordinary() -> Iterator[tuple[str, Task]]:
    """Tasks of real and embedded gateways."""
    yield from ((name, Task.from_model(models.Task.from_dict(body))) for name, body in TASKS.items())
    yield from anyio.run(sandbox_tasks)
    pressed = [button | {"style": n % 2 + 1} for n, button in enumerate(EXAMPLE["buttons"])]
    yield "pressed", example(buttons=[*pressed, {"label": "Web", "style": 5, "url": PAGE}], state="job 7")


def hostile() -> Iterator[tuple[str, Task]]:
    """Tasks of a hostile server."""
    yield from ((name, with_word(word)) for name, word in WORDS.items())
    yield from ((address[:40], with_address(address)) for address in NO_ADDRESSES)
    yield "quotes", example(imageUrl=f"{PICTURE}?\"onerror=\"{RUNS}\"'onload='{RUNS}'><script>{RUNS}</script>")
    yield "crowd", crowd(5000)
    yield "video", example(imageUrl="https://videos.example/pig.mp4")
    yield "giant", example(imageUrl=GIANT)


def page_of(tasks: dict[str, Task], theme: str) -> str:
    """A page of cards."""
    sections = [f'<section title="{html.escape(name)}">{card(task)}</section>' for name, task in tasks.items()]
    return f"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><style>
        body {{ {THEMES[theme]}; margin: 8px; display: grid; gap: 8px; align-items: start;
                grid-template-columns: repeat(auto-fill, minmax(min(100%, 514px), 1fr)); }}
        section {{ min-width: 0; position: relative }}</style>{"".join(sections)}"""


def look(browser: Browser, tasks: dict[str, Task], kind: str, theme: str, width: str) -> list[str]:
    """What is wrong with the cards of one page."""
    content = page_of(tasks, theme)
    pictures = {str(task.raw.image_url) for task in tasks.values()} if kind == "ordinary" else {PICTURE}
    asked: list[str] = []
    shown: list[str] = []
    findings: list[str] = []

    def answer(route: Route) -> None:
        url = route.request.url
        asked.append(url)
        if "referer" in route.request.headers:
            findings.append(f"{url} is asked for with a referrer")
        if asked == [PAGE]:
            route.fulfill(body=content, content_type="text/html; charset=utf-8")
        elif url == GIANT:
            route.fulfill(body=GIANT_PIXELS, content_type="image/svg+xml")
        elif url.startswith("https://") and (url in pictures or url.startswith(f"{PICTURE}?")):
            route.fulfill(body=PIXELS, content_type="image/png")
        else:
            findings.append(f"{url} is asked for")
            route.abort()

    def asks(dialog: Dialog) -> None:
        findings.append(f"a dialog says {dialog.message}")
        dialog.dismiss()

    with browser.new_context(viewport={"width": WIDTHS[width], "height": 900}) as context:
        page = context.new_page()
        context.route("**/*", answer)
        context.on("page", lambda popup: findings.append(f"a window opens: {popup.url}"))
        page.on("framenavigated", lambda frame: shown.append(frame.url))
        page.on("dialog", asks)
        page.on("console", lambda message: findings.append(f"on the console: {message.text}"))
        page.on("pageerror", lambda error: findings.append(f"a script fails: {error}"))
        page.goto(PAGE)
        findings += page.evaluate(SEEN_BY_PAGE)
        for number, clip in tiles(page).items():
            page.screenshot(path=SHOTS / f"{kind}-{theme}-{width}-{number}.png", clip=clip, full_page=True)
        findings += painted_outside(page)
        if shown != [PAGE]:
            findings.append(f"the page goes from one to the other of {shown}")
        if len(set(asked)) < 4:  # the page and three pictures
            findings.append("the pictures are not asked for")
    return [f"{kind}, {theme}, {width}: {finding}" for finding in findings]


def painted_outside(page: Page) -> list[str]:
    """Which cards paint outside their boxes: if these are covered, the page is the same without the cards."""
    page.add_style_tag(content="section::after { content: ''; position: absolute; inset: -1px; background: gray }")
    sections = page.evaluate("""() => [...document.querySelectorAll("section")].map(section => {
        const {x, y, width, height} = section.getBoundingClientRect();
        return [section.title, {x: x - 8, y: y - 8, width: width + 16, height: height + 16}];
    })""")
    found: list[str] = []
    for clips in (tiles(page), dict(sections)):  # the cards one by one only if a tile tells that it is worth it
        shots = [page.screenshot(clip=clip, full_page=True) for clip in clips.values()]
        style = page.add_style_tag(content="section > * { visibility: hidden }")
        empty = [page.screenshot(clip=clip, full_page=True) for clip in clips.values()]
        style.evaluate("style => style.remove()")
        found = [name for name, one, other in zip(clips, shots, empty, strict=True) if one != other]
        if not found:
            break
    return [f"{name}: paints outside its card" for name in found]


def tiles(page: Page) -> dict[str, Any]:
    """The whole page, in clips of a size that a person can view."""
    width, height = page.evaluate("[innerWidth, document.documentElement.scrollHeight]")
    tops = range(0, height if height < 25 * TILE else 0, TILE)  # Chromium draws no more, and a finding tells of it
    return {f"{n}": {"x": 0, "y": y, "width": width, "height": min(TILE, height - y)} for n, y in enumerate(tops, 1)}


def terminals() -> Iterator[tuple[str, str]]:
    """Pictures of the command in terminals of 80 and of 40 columns, with the names of their files."""
    with sandbox.serve(speed=100) as base_url, TemporaryDirectory() as name:
        folder = Path(name)
        for width in (80, 40):
            terminal = Terminal(
                environment(base_url), "wait", "never-182605345", "modal", "--timeout", "3", size=(12, width)
            )
            terminal.read("MODAL")
            yield f"bars-{width}", picture(Text(terminal.screen), width)
            terminal.close()
            words = ["wait", "upscale", "describe", "failure", "nowhere", "a/b", "--timeout", "1"]
            run(base_url, *words, folder=folder)  # they are submitted now, and have ended soon
            yield (
                f"wait-{width}",
                picture(run(base_url, *words, "--save", f"{width}", folder=folder, width=width), width),
            )
            yield f"help-{width}", picture(run(base_url, "wait", "--help", folder=folder, width=width), width)


def photograph(
    browser: Browser, path: Path, name: str, *, width: int = 1000, theme: Literal["light", "dark"]
) -> list[str]:
    """Takes a picture of a file. Returns what is wrong with it."""
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme) as context:
        page, asked = context.new_page(), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        height = min(page.evaluate("document.documentElement.scrollHeight"), TILE)
        page.set_viewport_size({"width": width, "height": height})  # Chromium never ends a full page of a bare SVG
        page.screenshot(path=SHOTS / f"{name}.png")
        findings = [f"{name}: asks for {url}" for url in asked if not url.startswith(("file:", "data:"))]
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            findings.append(f"{name}: is wider than its window")
    return findings


def others(browser: Browser) -> Iterator[str]:
    """Takes pictures of all but cards. Gives what is wrong with them."""
    yield from photograph(browser, ROOT / "docs/demo.svg", "readme", theme="light")
    for name, drawn in terminals():
        path = SHOTS / f"{name}.svg"
        path.write_text(drawn, encoding="utf-8")
        yield from photograph(browser, path, name, theme="light")
    for path in (ROOT / "build/site").rglob("*.html"):
        for theme in ("light", "dark"):
            for kind, width in WIDTHS.items():
                name = "-".join(path.relative_to(ROOT / "build/site").with_suffix("").parts)
                yield from photograph(browser, path, f"site-{name}-{theme}-{kind}", width=width, theme=theme)


def main() -> int:
    """Checks every page. Returns 1 if anything is wrong, 2 if there is no browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not path or not Path(path).exists():
        sys.stderr.write("There is no Chromium: install it (apt-get install chromium), or set CHROMIUM to its path.\n")
        return 2
    shutil.rmtree(SHOTS, ignore_errors=True)
    galleries = {"ordinary": dict(ordinary()), "hostile": dict(hostile())}
    pages = [(tasks, kind, theme, width) for kind, tasks in galleries.items() for theme in THEMES for width in WIDTHS]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=ARGUMENTS) as browser:
        findings = [finding for page in pages for finding in look(browser, *page)]
        findings += others(browser)
    sys.stderr.writelines(f"{finding}\n" for finding in findings)
    sys.stdout.write(f"{len(pages)} pages, {len(findings)} findings; the screenshots are in {SHOTS}\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
