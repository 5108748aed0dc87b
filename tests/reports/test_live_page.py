"""The live page: what is drawn and told, and who is answered."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bokeh.document import Document
from made_runs import add_steps, hold, make_run, step
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from anysize.cli.watch import command
from anysize.registry import UserError
from anysize.reports.live import Watched
from anysize.reports.live_page import LivePage
from anysize.reports.live_server import LiveServer

LINK = "<a href=x>"


def look_again(watched: Watched) -> None:
    watched.looked = -1e9  # it would not look twice in half a second
    watched.look()


def test_curves_follow_the_runs_and_the_choice(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / LINK, epochs=4, done=2), make_run(tmp_path / "b", epochs=4, done=3, mix="fixed")
    hold(one)
    add_steps(one, step(50), step(100), step(150))
    watched = Watched([tmp_path])
    page = LivePage(Document(), watched)
    loss = next(figure for figure in page.figures if figure.name == "loss")
    training, validation = (drawn.data_source for drawn in loss.plot.renderers[:2])
    assert training.data["name"] == [LINK, "b"]
    assert list(training.data["xs"][0]) == [0.5, 1.0, 1.5]  # by step
    assert list(training.data["xs"][1]) == [1, 2, 3]  # by epoch: it has no steps.csv
    assert [len(values) for values in validation.data["ys"]] == [2, 3]
    assert "&lt;a href=x&gt;" in page.state.text
    assert LINK not in page.state.text
    colors = dict(zip(training.data["name"], training.data["color"], strict=True))

    page.axis.active = 2
    assert loss.plot.below[0].axis_label == "training time (min)"
    page.shown.active = [1]
    assert training.data["name"] == ["b"]
    make_run(tmp_path / "c", epochs=4, done=1)
    hold(tmp_path / "c")
    add_steps(one, step(200))
    look_again(watched)
    page.renew()
    assert page.shown.labels == [LINK, "c", "b"]
    assert training.data["name"] == ["c", "b"]  # what was hidden stays so
    assert training.data["color"][1] == colors["b"]
    assert len(set(training.data["color"])) == 2
    assert other.exists()


def test_there_is_room_for_no_run_and_for_many(tmp_path: Path) -> None:
    page = LivePage(Document(), Watched([tmp_path / "runs"]))
    assert "no run in" in page.state.text
    for number in range(20):
        make_run(tmp_path / "runs" / f"run-{number}", epochs=2, evaluated=False)
    look_again(page.watched)
    page.renew()
    assert len(page.shown.labels) == 16
    assert "The curves are those of 16 runs" in page.state.text
    assert page.state.text.count("<tr>") == 21


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    make_run(tmp_path / "run", epochs=2)
    server = LiveServer(Watched([tmp_path]), port=0)
    yield server
    server.stop()


def test_a_browser_is_answered_that_asks_for_this_machine_alone(server: LiveServer) -> None:
    client = AsyncHTTPClient()

    async def ask(path: str = "", **headers: str) -> HTTPResponse:
        return await client.fetch(server.url + path, headers=headers, raise_error=False)

    async def asked() -> None:
        own = f"localhost:{server.port}"
        page = await ask()
        assert page.code == 200
        text = page.body.decode()
        assert 'src="static/js/bokeh.min.js' in text or 'src="/static/js/bokeh.min.js' in text
        assert "http://" not in text.replace("http://www.w3.org", "").partition("</head>")[0]
        assert (await ask("static/js/bokeh.min.js")).code == 200
        assert (await ask(Host=f"127.0.0.1:{server.port}")).code == 200
        assert (await ask(Origin=f"http://{own}")).code == 200
        for headers in (
            {"Host": f"evil.example:{server.port}"}, {"Host": "evil.example"}, {"Host": "localhost.evil.example"},
            {"Host": "10.0.0.1"}, {"Host": "[::1"}, {"Origin": "http://localhost:1"}, {"Origin": "null"},
            {"Origin": "http://evil.example"},
        ):  # fmt: skip
            assert (await ask(**headers)).code == 403, headers
            assert (await ask("ws", **headers)).code == 403, headers

    server.loop.run_sync(asked, timeout=30)


def test_a_port_that_is_taken_and_an_address_that_is_none_are_sentences(server: LiveServer, tmp_path: Path) -> None:
    for host, port, said in (
        ("127.0.0.1", server.port, "is taken by another program; give another one with --port, or 0 for any"),
        ("127.0.0.1", 70000, "port is 70000; expected a number from 0 to 65,535"),
        ("203.0.113.7", 0, "cannot listen at 203.0.113.7"),
        ("no.such.host.invalid", 0, "cannot listen at no.such.host.invalid"),
    ):
        with pytest.raises(UserError, match=said):
            LiveServer(Watched([tmp_path]), host, port)
    with pytest.raises(UserError, match="--every is 0; expected from"):
        command(str(tmp_path), every=0)
