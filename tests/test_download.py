"""Pictures become files: whole or not at all, under safe names, and from nowhere they may not come."""

import asyncio
import gzip
import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.lowlevel
import httpx
import pytest

from anyapi_midjourney import (
    APIConnectionError,
    AsyncMidjourney,
    ConfigurationError,
    DownloadError,
    Midjourney,
    MidjourneyError,
    RateLimitError,
    ServerError,
    Task,
    download,
    sandbox,
)
from shells import KEY, Shell, Stream, example, listening, reply

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
CDN = "https://cdn.example.com/attachments/1/2/pig.png"
SIGNED = f"{CDN}?ex=6728831f&is=6727319f&hm=aa&"


def task(url: str = CDN, **fields: Any) -> Task:
    return example(**{"imageUrl": url, **fields})


def gives(content: bytes = PNG, status: int = 200, **headers: str) -> httpx.MockTransport:
    return httpx.MockTransport(reply(content, status, **headers))


def files() -> list[str]:
    """The names of what is in the current folder."""
    return sorted(path.name for path in Path().iterdir())


def save(
    shell: Shell,
    transport: Any,
    path: Any = None,
    picture: Task | None = None,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    wanted = task() if picture is None else picture
    options = {"retries": 0, **options}
    result: Path = shell.use(None, transport, lambda mj: mj.download(wanted, path, overwrite=overwrite), **options)
    return result


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no names but addresses."""
    monkeypatch.chdir(tmp_path)
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if os.fsdecode(host).endswith((".com", ".example")):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (PNG, ".png"),
        (b"RIFF\x00\x00\n\x00WEBPVP8 ", ".webp"),
        (b"\xff\xd8\xff\xe0 and so on and on", ".jpg"),
        (b"GIF89a and so on and on", ".gif"),
        (struct.pack(">I4s4sI", 32, b"ftyp", b"avif", 0), ".avif"),
        (struct.pack(">I4s4sI", 32, b"ftyp", b"isom", 512), ".mp4"),
        (struct.pack(">I4s4sI", 32, b"ftyp", b"qt  ", 512), ".mov"),
        (b"\x1aE\xdf\xa3 and so on and on", ".webm"),
    ],
)
def test_a_file_is_called_by_the_id_and_ends_as_what_it_is(shell: Shell, content: bytes, ending: str) -> None:
    path = save(shell, gives(content, content_type="text/plain"))
    assert path == Path(f"1730621826053455{ending}")
    assert path.read_bytes() == content
    assert files() == [path.name]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    ("task_id", "name"),
    [
        ("../../etc/passwd", "etcpasswd.png"),
        ("/root/.ssh/id", "root.sshid.png"),
        ("..", "task.png"),
        ("-rf *", "rf.png"),
        ("猪\x1b]0;x\x07\n", "0x.png"),
        ('CON:\\nul|<>?"', "CONnul.png"),
        ("x" * 5000, "x" * 128 + ".png"),
    ],
)
def test_an_id_from_a_server_makes_no_other_name(shell: Shell, task_id: str, name: str) -> None:
    assert save(shell, gives(), picture=task(id=task_id)) == Path(name)
    assert files() == [name]


def test_it_goes_where_it_is_told(shell: Shell, tmp_path: Path) -> None:
    assert save(shell, gives(), tmp_path) == tmp_path / "1730621826053455.png"
    assert save(shell, gives(), str(tmp_path / "pig")) == tmp_path / "pig"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save(shell, gives(), tmp_path / "nowhere" / "pig.png")
    assert files() == ["1730621826053455.png", "pig"]


@pytest.mark.parametrize("path", [None, "1730621826053455.png"])
def test_it_writes_over_a_file_only_when_told_to_and_never_through_a_link(shell: Shell, path: Any) -> None:
    name, other = Path("1730621826053455.png"), Path("other")
    other.write_bytes(b"precious")
    for there in (lambda: name.write_bytes(b"old"), lambda: name.symlink_to(other), lambda: name.symlink_to("gone")):
        there()
        transport, asked = routes(cdn_example_com=picture)
        with pytest.raises(FileExistsError, match=r"1730621826053455\.png"):
            save(shell, transport, path)
        assert len(asked) == (path is None)  # the ending of the name is not known before
        assert files() == [name.name, "other"]
        assert save(shell, gives(), path, overwrite=True) == name
        assert not name.is_symlink()
        assert (name.read_bytes(), other.read_bytes()) == (PNG, b"precious")
        name.unlink()


def test_a_file_that_appears_meanwhile_is_kept(shell: Shell) -> None:
    class Slow(Stream):
        def __iter__(self) -> Iterator[bytes]:
            yield PNG
            Path("pig.png").write_bytes(b"mine")

    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Slow()))
    with pytest.raises(FileExistsError):
        save(shell, transport, "pig.png")
    assert Path("pig.png").read_bytes() == b"mine"
    assert files() == ["pig.png"]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (gives(b"<!doctype html><html>"), DownloadError, r"no picture; it begins with \"<!doctype html>"),
        (gives(b""), DownloadError, "no picture"),
        (gives(b"<svg onload=alert(1)>"), DownloadError, "no picture"),
        (gives(PNG, 206), DownloadError, r"HTTP 206"),
        (
            gives(b'{"error":"midjourney_task_not_found"}', 400),
            DownloadError,
            r'^"midjourney_task_not_found" \(HTTP 400\)',
        ),
        (
            gives(b"This content is no longer available.", 404),
            DownloadError,
            r'^"This content is no longer available."',
        ),
        (gives(b"", 401), DownloadError, "not to be had from"),
        (gives(b'{"error":"http_get_image_failed"}', 500), ServerError, r'^"http_get_image_failed" \(HTTP 500\)'),
        (gives(b"", 429), RateLimitError, "HTTP 429"),
        (gives(b"", 302, location="http://[::1"), MidjourneyError, "cdn.example.com"),
        (gives(b"", 304), DownloadError, "HTTP 304"),
        (gives(b"x" * 100, content_encoding="gzip"), DownloadError, "cannot be unpacked"),
        (gives(PNG, content_length=str(2**40)), DownloadError, "larger than 256 MiB"),
    ],
)
def test_what_is_no_picture_is_an_error_and_leaves_nothing(
    shell: Shell, answer: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        save(shell, answer)
    assert isinstance(caught.value, MidjourneyError)
    assert caught.value.task_id == "1730621826053455"
    assert files() == []


def test_it_says_when_the_signed_link_expired(shell: Shell) -> None:
    with pytest.raises(DownloadError, match=r"^HTTP 403\. The signed link expired on 2024-11-04 at 08:17 UTC"):
        save(shell, gives(b"", 403), picture=task(SIGNED))
    assert save(shell, gives(), picture=task(SIGNED)).exists()  # our clock may be wrong
    with pytest.raises(DownloadError, match=r"^HTTP 403\. The picture is not to be had from"):
        save(shell, gives(b"", 403), "other", task(SIGNED.replace("ex=6", "ex=f")))


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "IN_PROGRESS"},
        {"status": "FAILURE"},
        {"imageUrl": "", "action": "SHORTEN"},
        {"imageUrl": "https://\udc80.example"},
        {"imageUrl": "https://xn--\u0000/"},
        {"imageUrl": "/etc/passwd"},
        {"imageUrl": "https:///x"},
        *[
            {"imageUrl": f"{address}/mj/picture.png"}
            for address in (
                "file://",
                "javascript:alert(1)//",
                "http://LOCALHOST.:80",
                "http://2130706433",
                "http://[::ffff:127.0.0.1]",
                "http://169.254.169.254",
                "http://www.anyapi.vip@127.0.0.1",
            )
        ],
    ],
    ids=str,
)
def test_an_address_that_leads_nowhere_good_is_not_asked(shell: Shell, fields: dict[str, Any]) -> None:
    transport, asked = routes(cdn_example_com=picture)
    with pytest.raises(DownloadError) as caught:
        save(shell, transport, picture=task(**{"url": CDN, **fields}))
    assert asked == []
    assert str(caught.value).isprintable()
    assert files() == []


def routes(**answers: Callable[[], httpx.Response]) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """Hosts, with dots for underscores, and what they answer; and the requests that they got."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[request.url.host.replace(".", "_").replace("-", "_")]()

    return httpx.MockTransport(answer), asked


def to(location: str) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(302, headers={"location": location}, stream=Stream(b""))


def picture() -> httpx.Response:
    return httpx.Response(200, stream=Stream(PNG))


def test_redirects_are_followed_and_no_key_is_sent(shell: Shell) -> None:
    transport, asked = routes(www_anyapi_vip=to(SIGNED), cdn_example_com=to("//a.example/x"), a_example=picture)
    assert save(shell, transport, picture=task("https://www.anyapi.vip/mj/image/1?sig=a%2Fb")).exists()
    assert [str(r.url) for r in asked] == ["https://www.anyapi.vip/mj/image/1?sig=a%2Fb", SIGNED, "https://a.example/x"]
    for request in asked:
        assert "authorization" not in request.headers
        assert KEY.removeprefix("sk-") not in str(request.headers.raw) + str(request.url)
        assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "location",
    [
        "http://cdn.example.com/x",
        "https://localhost/x",
        "https://10.0.0.1/x",
        "https://[::1]:22/",
        "file:///etc/passwd",
        "https://cdn.example.com/again",
    ],
)
def test_each_redirect_is_checked_anew(shell: Shell, location: str) -> None:
    transport, asked = routes(cdn_example_com=to(location))
    with pytest.raises(MidjourneyError):
        save(shell, transport)
    assert len(asked) == (6 if "again" in location else 1)


def test_the_address_that_an_operator_forgot_is_the_base_urls(shell: Shell) -> None:
    bases = {"https://gateway.example/mj-fast": "gateway.example", "http://localhost:8": "localhost:8"}
    for address in ("http://localhost:3000", "http://127.0.0.1:3001", "https://localhost"):
        for base_url, host in bases.items():
            transport, asked = routes(gateway_example=picture, localhost=picture)
            forgotten = task(f"{address}/mj/image/17?rand=1")
            assert save(shell, transport, "pig", forgotten, overwrite=True, base_url=base_url)
            assert asked[0].url.netloc.decode() == host
            assert asked[0].url.raw_path == b"/mj/image/17?rand=1"


def test_the_base_urls_own_host_may_be_a_local_one(shell: Shell) -> None:
    with sandbox.serve(speed=10**6) as base_url, Midjourney(sandbox.API_KEY, base_url=base_url) as mj:
        for task_id, name in (("success", "success.png"), ("video", "video.mp4")):
            while not (done := mj.fetch(task_id)).done:
                pass
            assert save(shell, None, picture=done, base_url=base_url, api_key=sandbox.API_KEY) == Path(name)
    assert Path("success.png").read_bytes().startswith(b"\x89PNG")


@contextmanager
def counting() -> Generator[tuple[int, list[bytes]]]:
    """A real server on loopback: its port, and what it was sent."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    got.append(connection.recv(65536))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], got
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def resolves(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Has every name resolve to these, one after the other, the last one from then on."""
    left = list(addresses)
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if os.fsdecode(host).endswith(".com"):
            return real(left.pop(0) if len(left) > 1 else left[0], port, *args, **options)
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_to_this_machine_is_not_connected_to(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with counting() as (port, got):
        resolves(monkeypatch, address)
        with pytest.raises(DownloadError, match=r'host "evil\.com" is a local one'):
            save(shell, None, picture=task(f"http://evil.com:{port}/"))
    assert got == []


def test_a_name_that_leads_elsewhere_the_second_time_is_sent_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counting() as (port, got):
        resolves(monkeypatch, "93.184.215.14", "127.0.0.1")
        with pytest.raises(DownloadError, match="is a local one"):
            save(shell, None, picture=task(f"http://evil.com:{port}/"))
    assert b"".join(got) == b""


def test_a_transport_of_the_callers_is_not_asked_for_a_local_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves(monkeypatch, "10.0.0.1")
    transport, asked = routes(evil_com=picture)
    for shell in map(Shell, ("sync", "asyncio", "trio")):
        with pytest.raises(DownloadError, match="is a local one"):
            save(shell, transport, picture=task("https://evil.com/"))
    assert asked == []
    resolves(monkeypatch, "198.18.0.7")  # what local proxies let all names resolve to
    assert save(Shell("trio"), transport, picture=task("https://evil.com/")).exists()


def test_a_proxy_looks_up_names_itself(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    resolves(monkeypatch, "10.0.0.1")

    def proxy(connection: socket.socket) -> None:
        assert connection.recv(65536).startswith(b"GET http://cdn.example.com/x HTTP/1.1\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PNG), PNG))

    with listening(proxy) as address:
        assert save(shell, None, picture=task("http://cdn.example.com/x"), proxy=address).read_bytes() == PNG


def test_limits_of_size_and_time_hold_and_packed_pictures_are_unpacked(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert save(shell, gives(gzip.compress(PNG), content_encoding="gzip"), "packed").read_bytes() == PNG
    monkeypatch.setattr(download, "SIZE_LIMIT", 2**20)
    bomb = gzip.compress(PNG + bytes(2**24))
    for content, encoding in ((PNG + bytes(2**20), "identity"), (bomb, "gzip")):
        with pytest.raises(DownloadError, match="larger than 1 MiB"):
            save(shell, gives(content, content_encoding=encoding))
    monkeypatch.setattr(download, "TIME_LIMIT", -1.0)
    with pytest.raises(DownloadError, match="takes more than"):
        save(shell, gives())
    assert files() == ["packed"]


def test_a_packed_picture_that_is_cut_off_or_goes_on_is_none(shell: Shell) -> None:
    packed = gzip.compress(PNG)
    for content in (packed[:-9], packed + b"and more", packed + packed):
        with pytest.raises(DownloadError, match=r"is cut off|goes on after its end"):
            save(shell, gives(content, content_encoding="gzip"))
    assert files() == []


def test_a_key_that_the_server_echoes_is_in_no_error(shell: Shell) -> None:
    for answer in (
        gives(f"Authorization: Bearer {KEY}".encode()),
        gives(KEY.encode() * 9, content_encoding="gzip"),
        gives(b"", 302, location=f"http://{KEY}/"),
        gives(b"", 302, location=f"{KEY}://x/"),
        gives(f'{{"error": "{KEY}"}}'.encode(), 404),
        gives(b"", 302, location=f"http://{KEY}.example/"),
    ):
        with pytest.raises(MidjourneyError) as caught:
            save(shell, answer, picture=task("https://www.anyapi.vip/x"))
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        ours = [repr(f.f_locals) for f in frames if "overlays" in f.f_code.co_filename]
        assert ours
        for text in (str(caught.value), repr(vars(caught.value)), *ours):
            assert KEY not in text


def test_a_file_is_known_by_its_first_bytes_however_they_come(shell: Shell) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Stream(PNG[:3], PNG[3:9], PNG[9:])))
    assert save(shell, transport).read_bytes() == PNG


def test_a_device_is_not_replaced(shell: Shell) -> None:
    os.mkfifo("pipe")
    with pytest.raises(FileExistsError):
        save(shell, gives(), "pipe", overwrite=True)
    assert files() == ["pipe"]


def test_a_folder_that_is_not_there_is_none(shell: Shell) -> None:
    with pytest.raises(FileNotFoundError):
        save(shell, gives(), "pictures/")
    assert files() == []


def test_faults_that_pass_are_tried_again_and_leave_nothing(shell: Shell, pauses: list[float]) -> None:
    def broken() -> httpx.Response:
        return httpx.Response(200, stream=Stream(PNG[:5000], httpx.ReadError("reset")))

    answers = iter([broken, lambda: httpx.Response(503), picture, broken, broken])
    transport = httpx.MockTransport(lambda _: next(answers)())
    assert save(shell, transport, retries=2).read_bytes() == PNG
    assert len(pauses) == 2
    with pytest.raises(APIConnectionError, match=r"from cdn\.example\.com") as caught:
        save(shell, transport, "other", retries=1)
    assert caught.value.task_id == "1730621826053455"
    assert files() == ["1730621826053455.png"]


def test_a_body_that_is_cut_off_is_no_picture(shell: Shell) -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PNG) + 1, PNG))

    with listening(cut) as base_url, pytest.raises(APIConnectionError):
        save(shell, None, picture=task(f"{base_url}/x"), base_url=base_url)
    assert files() == []


def test_a_full_disk_is_an_os_error_and_leaves_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: str) -> BinaryIO:
        path.touch()
        return open("/dev/full", "wb")  # noqa: PTH123

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        save(shell, gives())
    assert files() == []


def test_a_file_system_without_hard_links_will_do(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert save(shell, gives(), "pig.png").read_bytes() == PNG
    with pytest.raises(FileExistsError):
        save(shell, gives(), "pig.png")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        save(shell, gives(), "other.png")
    assert files() == ["pig.png"]


def test_a_thread_that_still_writes_when_its_task_is_cancelled_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    real = Path.open

    def slow(path: Path, mode: str) -> Any:
        file = real(path, mode)
        opened.set()
        time.sleep(0.05)  # a slow disk
        return file

    async def run() -> None:
        async with AsyncMidjourney(KEY, transport=gives()) as mj:
            saving = asyncio.create_task(mj.download(task()))
            await asyncio.to_thread(opened.wait)
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving

    monkeypatch.setattr(Path, "open", slow)
    asyncio.run(run())
    assert files() == []


def test_a_cancelled_download_leaves_nothing() -> None:
    class Endless(Stream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield PNG
            assert len(files()) == 1
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            raise AssertionError

    scope: Any = None

    async def run() -> None:
        nonlocal scope
        async with AsyncMidjourney(
            KEY, transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless()))
        ) as mj:
            with anyio.CancelScope() as scope:
                await mj.download(task())

    for backend in ("asyncio", "trio"):
        anyio.run(run, backend=backend)
        assert files() == []


def test_hooks_are_for_answers_of_the_api(shell: Shell) -> None:
    seen: list[object] = []
    save(shell, gives(), event_hooks={"request": [seen.append], "response": [seen.append]})
    assert seen == []


def test_a_mistake_of_the_callers_is_said_before_anything_is_sent(shell: Shell) -> None:
    wrong: Any = "1730621826053455"
    with pytest.raises(ConfigurationError, match="takes a task"):
        save(shell, None, picture=wrong)
    mj = Midjourney(KEY)
    mj.close()
    with pytest.raises(ConfigurationError, match="closed"):
        mj.download(task())
