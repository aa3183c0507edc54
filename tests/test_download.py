"""Pictures become files: whole or not at all, under safe names, and from no URL that must not be requested."""

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyapi_midjourney import AsyncMidjourney, Midjourney, Task, _download, errors, sandbox
from anyapi_midjourney._download import Download, absolute_url, saved_picture
from anyapi_midjourney.errors import Json
from clients import KEY, SYNC, TASK_ID, Client, Stream, example, listening, raises, reply, says, sequence

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
NAME = f"{TASK_ID}.png"
CDN = "https://cdn.example.com/attachments/1/2/pig.png"
SIGNED = f"{CDN}?ex=6728831f&is=6727319f&hm=aa&"
Server = Callable[[httpx.Request], httpx.Response]


def task(url: str = CDN, **fields: Any) -> Task:
    return example(**{"imageUrl": url, **fields})


def files() -> list[str]:
    """The names of what is in the current folder."""
    return sorted(path.name for path in Path().iterdir())


def save(client: Client, server: Server | None, path: Any = None, picture: Any = None, **options: Any) -> Path:
    """Downloads a picture with a new client, without retries."""
    wanted, overwrite = picture or task(), options.pop("overwrite", False)
    transport = httpx.MockTransport(server) if server else None
    options = {"max_retries": 0, **options}
    saved: Path = client.run(lambda mj: mj.download(wanted, path, overwrite=overwrite), transport, **options)
    return saved


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Files


FTYP = {".avif": b"avif", ".mp4": b"isom", ".mov": b"qt  "}
KINDS = {
    ".png": PNG,
    ".webp": b"RIFF\0\0\n\0WEBPVP8 ",
    ".jpg": b"\xff\xd8\xff\xe0 and so on",
    ".gif": b"GIF89a and so on",
    ".webm": b"\x1aE\xdf\xa3 and so on",
    **{ending: b"\0\0\0 ftyp" + brand for ending, brand in FTYP.items()},
}


@pytest.mark.parametrize(("ending", "content"), KINDS.items())
def test_a_file_has_the_tasks_id_and_the_ending_of_its_first_bytes(ending: str, content: bytes, client: Client) -> None:
    chunks = Stream(content[:3], content[3:9], content[9:])
    path = save(client, lambda _: httpx.Response(200, headers={"content-type": "text/plain"}, stream=chunks))
    assert path == Path(f"{TASK_ID}{ending}")
    assert path.read_bytes() == content
    assert files() == [path.name]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_download_takes_an_id_and_saves_the_video_of_a_video_task(client: Client) -> None:
    asked: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        video = {"id": "1", "status": "SUCCESS", "imageUrl": CDN, "videoUrl": "https://v.example/1"}
        return (reply(PNG) if request.url.host == "v.example" else reply(video))(request)

    assert save(client, respond, picture="1") == Path("1.png")
    assert asked == ["https://www.anyapi.vip/mj/task/1/fetch", "https://v.example/1"]


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True) | st.just(["a:b", "a~b"]))
def test_two_ids_never_share_a_file_name_and_every_name_is_safe(ids: list[str]) -> None:
    stems = [_download._stem(task_id) for task_id in ids]  # pyright: ignore[reportPrivateUsage]  # what names are, without a thousand files
    assert stems[0] != stems[1]
    for name in stems:
        assert re.fullmatch(r"[\w%~-][\w%~.-]*", name, re.ASCII)


@pytest.mark.parametrize("task_id", ["../../etc/passwd", "..", "-rf *", "猪\x1b]0;x\x07\n", "task:1", "task~1"])
def test_a_picture_with_any_id_is_saved_in_the_folder_and_found_again(task_id: str) -> None:
    assert saved_picture(task_id, Path()) is None
    path = save(SYNC, reply(PNG), picture=task(id=task_id))
    assert [path.name] == files()
    assert saved_picture(task_id, Path()) == path
    assert saved_picture("task-1", Path()) is None


def test_a_path_is_a_folder_or_a_file(tmp_path: Path) -> None:
    assert save(SYNC, reply(PNG), tmp_path) == tmp_path / NAME
    assert save(SYNC, reply(PNG), str(tmp_path / "pig")) == tmp_path / "pig"
    for nowhere in (tmp_path / "nowhere" / "pig.png", "nowhere/"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            save(SYNC, raises(AssertionError()), nowhere)
    assert files() == [NAME, "pig"]


@pytest.mark.parametrize("path", [None, NAME])
def test_a_file_is_overwritten_only_on_demand_and_never_through_a_link(path: Any, client: Client) -> None:
    name, other = Path(NAME), Path("other")
    other.write_bytes(b"precious")
    for there in (lambda: name.write_bytes(b"old"), lambda: name.symlink_to(other), lambda: name.symlink_to("gone")):
        there()
        server = reply(PNG) if path is None else raises(AssertionError())  # without a path, the ending is unknown yet
        with pytest.raises(FileExistsError, match=NAME):
            save(client, server, path)
        assert files() == [NAME, "other"]
        assert save(client, reply(PNG), path, overwrite=True) == name
        assert not name.is_symlink()
        assert (name.read_bytes(), other.read_bytes()) == (PNG, b"precious")
        name.unlink()


def test_a_file_that_appears_during_the_download_is_kept() -> None:
    class Slow(Stream):
        def __iter__(self) -> Iterator[bytes]:
            yield PNG
            Path("pig.png").write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        save(SYNC, lambda _: httpx.Response(200, stream=Slow()), "pig.png")
    assert Path("pig.png").read_bytes() == b"mine"
    assert files() == ["pig.png"]


def test_a_device_is_not_replaced() -> None:
    os.mkfifo("pipe")
    with pytest.raises(FileExistsError):
        save(SYNC, raises(AssertionError()), "pipe", overwrite=True)
    assert files() == ["pipe"]


@pytest.mark.parametrize("supported", [False, None])
def test_a_file_system_or_a_python_without_hard_links_works(
    supported: bool | None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if supported is None:
        monkeypatch.delattr(os, "link")
    else:
        monkeypatch.setattr(os, "link", refuse)
    assert save(client, reply(PNG), "pig.png").read_bytes() == PNG
    with pytest.raises(FileExistsError):
        save(client, reply(PNG), picture=task(id="pig"))
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        save(client, reply(PNG), "other.png")
    assert files() == ["pig.png"]


def test_a_full_disk_is_an_os_error_and_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: str) -> BinaryIO:
        path.touch()
        return open("/dev/full", "wb")  # noqa: PTH123

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        save(client, reply(PNG), max_retries=2)
    assert files() == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_download_leaves_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scope: Any = None
    write = Download.write

    def slow_write(download: Download, chunk: bytes) -> None:
        anyio.from_thread.run_sync(scope.cancel)
        time.sleep(0.05)  # the thread still writes when its task is cancelled
        assert len(files()) == 1
        write(download, chunk)

    async def run() -> None:
        nonlocal scope
        async with AsyncMidjourney(KEY, transport=httpx.MockTransport(reply(PNG))) as mj:
            with anyio.CancelScope() as scope:
                await mj.download(task())
        assert scope.cancelled_caught

    monkeypatch.setattr(Download, "write", slow_write)
    anyio.run(run, backend=backend)
    assert files() == []


# Responses without a picture

S3_REFUSAL = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Request has expired.</Message></Error>'


NO_PICTURES: list[tuple[str, Server]] = [
    ('not a picture; it begins with "<!doctype html>', reply(b"<!doctype html><html>")),
    *[("is not a picture", reply(body)) for body in (b"", b"<svg onload=alert(1)>", b"PNG")],
    ('^"midjourney_task_not_found" .HTTP 400', reply({"error": "midjourney_task_not_found"}, 400)),
    ('^"This content is no longer available." .HTTP 404', reply("This content is no longer available.", 404)),
    ('^"Request has expired." .HTTP 403', reply(S3_REFUSAL, 403)),
    ("^HTTP 401. Could not download the picture from cdn.example.com", reply(b"", 401)),
    *[(f"HTTP {status}", reply(PNG, status)) for status in (206, 304, 404)],
    ('"gzip", which was not asked for', reply(PNG, content_encoding="gzip")),
]
FAULTS: list[tuple[type[Exception], str, Server]] = [
    (errors.ServerError, '^"http_get_image_failed" .HTTP 500', reply({"error": "http_get_image_failed"}, 500)),
    (errors.RateLimitError, "HTTP 429", reply(b"", 429)),
    (errors.APIConnectionError, "cdn.example.com", raises(httpx.ConnectError("refused"))),
    *[
        (errors.APIConnectionError, "cdn.example.com", reply(b"", 302, location=f"http://{u}"))
        for u in ("[::1", "xn--a.com")
    ],
    *[(errors.DownloadError, text, server) for text, server in NO_PICTURES],
]


@pytest.mark.parametrize(("error", "text", "server"), FAULTS)
def test_what_is_no_picture_is_an_error_and_leaves_nothing(
    error: type[Exception], text: str, server: Server, client: Client
) -> None:
    with pytest.raises(error, match=text) as caught:
        save(client, server)
    assert isinstance(caught.value, errors.MidjourneyError)
    assert caught.value.task_id == TASK_ID
    assert files() == []


def test_a_refusal_says_when_the_signed_link_expired() -> None:
    with pytest.raises(errors.DownloadError, match=r"^HTTP 403\. The signed link expired on 2024-11-04 at 08:17 UTC"):
        save(SYNC, reply(b"", 403), picture=task(SIGNED))
    with pytest.raises(
        errors.DownloadError, match=r"^HTTP 403\. Could not download the picture from cdn\.example\.com"
    ):
        save(SYNC, reply(b"", 403), picture=task(SIGNED.replace("ex=6", "ex=f")))
    assert save(SYNC, reply(PNG), picture=task(SIGNED)).exists()  # our clock may be wrong


def test_a_picture_larger_than_the_limit_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "MAX_SIZE", 2**20)
    with pytest.raises(errors.DownloadError, match="larger than 1 MiB"):
        save(client, lambda _: httpx.Response(200, stream=Stream(PNG, bytes(2**19), bytes(2**19), PNG)))
    assert files() == []


def test_a_body_that_is_cut_off_is_no_picture(client: Client) -> None:
    with listening(says(PNG, length=len(PNG) + 1)) as base_url, pytest.raises(errors.APIConnectionError):
        save(client, None, picture=task(f"{base_url}/x"), base_url=base_url)
    assert files() == []


def test_transient_errors_are_retried_and_leave_nothing(client: Client, pauses: list[float]) -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stream(PNG[:5000], httpx.ReadError("reset")))

    assert save(client, sequence(broken, reply(b"", 503), reply(PNG)), max_retries=2).read_bytes() == PNG
    assert len(pauses) == 2
    with pytest.raises(errors.APIConnectionError):
        save(client, sequence(broken, broken), "other", max_retries=1)
    assert files() == [NAME]


def test_the_picture_of_an_answered_window_is_retried_for_45_seconds(client: Client, pauses: list[float]) -> None:
    answered = task("/mj/image/1", action="MODAL")
    refusals = [reply({"error": "request blocked: unsupported protocol"}, status) for status in (403, 500)] * 4
    assert save(client, sequence(*refusals, reply(PNG)), picture=answered).exists()
    assert 40 <= sum(pauses) <= 45
    with pytest.raises(errors.ServerError, match="after its next refresh"):
        save(client, sequence(*refusals, refusals[0]), "other", answered)
    for other in (task("/mj/image/1"), task(CDN, action="MODAL")):
        with pytest.raises(errors.DownloadError):
            save(client, sequence(reply(b"", 403)), "other", other)


# URLs


GATEWAY = "https://x.example/mj-fast"
ABSOLUTE = {
    "https://cdn.example/a?b=%2Fc": "https://cdn.example/a?b=%2Fc",
    "//cdn.example/a": "//cdn.example/a",
    "http://localhost:3000/mj/image/1?rand=1": f"{GATEWAY}/mj/image/1?rand=1",
    "https://127.0.0.1/mj-fast/mj/image/1": f"{GATEWAY}/mj/image/1",
    "/mj/image/1": f"{GATEWAY}/mj/image/1",
    "mj/image/1": f"{GATEWAY}/mj/image/1",
    "http://x.example:3000/mj/image/1": "https://x.example/mj/image/1",
}


@pytest.mark.parametrize(("url", "expected"), ABSOLUTE.items())
def test_a_relative_url_a_loopback_host_and_the_base_urls_host_are_the_gateway(url: str, expected: str) -> None:
    assert str(absolute_url(task(url), httpx.URL(GATEWAY))) == expected
    assert str(absolute_url(task(url), httpx.URL(f"{GATEWAY}/"))) == expected


NO_PICTURE: list[dict[str, Json]] = [
    {"status": "IN_PROGRESS"},
    {"status": "FAILURE"},
    {"imageUrl": "", "action": "SHORTEN"},
]
NO_URLS = [
    "https://\udc80.example",
    "https://xn--\u0000/",
    "https:///x",
    "//cdn.example.com/x",
    "javascript:alert(1)//",
]
REFUSED_HOSTS = [
    "LOCALHOST.:80",
    "2130706433",
    "[::ffff:10.0.0.1]",
    "169.254.169.254",
    "www.anyapi.vip@10.0.0.1",
    "printer.local",
]
REFUSED_URLS = [
    *NO_URLS,
    "file:///etc/passwd",
    "ftp://cdn.example.com/x",
    *(f"http://{host}/x" for host in REFUSED_HOSTS),
]


@pytest.mark.parametrize("fields", [*NO_PICTURE, *({"imageUrl": url} for url in REFUSED_URLS)], ids=str)
def test_a_task_without_a_picture_or_with_a_refused_url_sends_nothing(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.DownloadError) as caught:
        save(SYNC, raises(AssertionError()), picture=task(**{"url": CDN, **fields}))
    assert str(caught.value).isprintable()
    assert files() == []


def route(**servers: Server) -> tuple[Server, list[httpx.Request]]:
    """Hosts, with underscores for dots, and how they respond; and the requests that they got."""
    asked: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return servers[request.url.host.replace(".", "_")](request)

    return respond, asked


def to(location: str) -> Server:
    return reply(b"", 302, location=location)


def test_redirects_are_followed_and_no_key_is_sent(client: Client) -> None:
    server, asked = route(www_anyapi_vip=to(SIGNED), cdn_example_com=to("//a.example/x"), a_example=reply(PNG))
    assert save(client, server, picture=task("https://www.anyapi.vip/mj/image/1?sig=a%2Fb")).exists()
    assert [str(r.url) for r in asked] == ["https://www.anyapi.vip/mj/image/1?sig=a%2Fb", SIGNED, "https://a.example/x"]
    for request in asked:
        assert KEY.removeprefix("sk-") not in f"{request.headers.raw} {request.url}"
        assert request.headers["accept-encoding"] == "identity"


def test_the_gateway_gets_the_key_only_after_a_401_and_a_host_that_it_redirects_to_never(client: Client) -> None:
    gateway = sequence(reply(b"", 401), to(CDN))
    server, asked = route(www_anyapi_vip=gateway, cdn_example_com=sequence(to(f"{CDN}2"), reply(PNG)))
    assert save(client, server, picture=task("/mj/image/1")).exists()
    assert ["authorization" in request.headers for request in asked] == [False, True, False, False]
    server, asked = route(cdn_example_com=reply(b"", 401), www_anyapi_vip=reply(b"", 401))
    for url, signed in ((CDN, [False]), ("/mj/image/1", [False, True])):
        asked.clear()
        with pytest.raises(errors.DownloadError, match="HTTP 401"):
            save(client, server, "other", task(url))
        assert ["authorization" in request.headers for request in asked] == signed


LOCATIONS = ["http://cdn.example.com/x", "https://localhost/x", "https://10.0.0.1/x", "https://[::1]:22/", "file:///x"]


@pytest.mark.parametrize("location", [*LOCATIONS, "https://cdn.example.com/again"])
def test_each_redirect_is_checked_and_a_sixth_is_refused(location: str, client: Client) -> None:
    server, asked = route(cdn_example_com=to(location))
    with pytest.raises(errors.DownloadError):
        save(client, server)
    assert len(asked) == (6 if "again" in location else 1)


def test_the_base_urls_own_host_may_be_private(client: Client) -> None:
    with sandbox.serve(speed=10**6) as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        for task_id, name in (("success", "success.png"), ("video", "video.mp4")):
            while not (done := mj.fetch(task_id)).done:
                pass
            assert save(client, None, picture=done, base_url=base_url, api_key=sandbox.API_KEY) == Path(name)
    assert Path("success.png").read_bytes().startswith(b"\x89PNG")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Has every name resolve to these, one after the other, and to the last one from then on."""
    left = list(addresses)
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if os.fsdecode(host).endswith(".com"):
            return real(left.pop(0) if len(left) > 1 else left[0], port, *args, **options)
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_name_that_resolves_to_a_private_address_is_sent_nothing(
    address: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    with listening(lambda connection: received.append(connection.recv(65536))) as base_url:
        resolve_to(monkeypatch, address)
        with pytest.raises(errors.DownloadError, match=r'host "evil\.com" is private or loopback'):
            save(client, None, picture=task(f"http://evil.com:{base_url.rpartition(':')[2]}/"))
    assert b"".join(received) == b""


def test_a_proxy_resolves_names_itself(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "10.0.0.1")

    with listening(says(PNG)) as proxy:
        assert save(client, None, picture=task("http://cdn.example.com/x"), proxy=proxy).read_bytes() == PNG


# The caller


def test_hooks_of_the_caller_do_not_see_downloads(client: Client) -> None:
    hooks = {"request": [raises(AssertionError())], "response": [raises(AssertionError())]}
    assert save(client, reply(PNG), event_hooks=hooks).exists()


def test_a_wrong_task_or_a_closed_client_is_an_error_before_anything_is_sent(client: Client) -> None:
    for wrong in (7, "a/b", KEY):
        with pytest.raises(errors.ConfigurationError):
            save(client, raises(AssertionError()), picture=wrong)
    mj = client.type(KEY)
    client.close(mj)
    with pytest.raises(errors.ConfigurationError, match="closed"):
        client.call(mj.download, task())
