"""An S3-compatible server on the loopback, and one before it that fails as servers do."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}


class Failing(ThreadingHTTPServer):
    """Hands requests on to a server, but for those that `how` says: refuse, reset, cut, down."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.how, self.requests = behind, "", 0

    def handle_error(self, *args: Any) -> None:
        """A client that is gone is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Failing

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        fails = server.how == "down" or (server.how and server.requests % 3 == 1)
        if fails and server.how in ("refuse", "down"):
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fails and server.how == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if server.how == "slow":
            time.sleep(0.02)
        there = http.client.HTTPConnection("127.0.0.1", server.behind)
        there.request(self.command, self.path, headers=dict(self.headers))
        answer = there.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)) if body else answer.getheader("Content-Length", "0"))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fails else body)
        self.close_connection = self.close_connection or bool(fails)
        there.close()

    do_HEAD = do_GET


@contextlib.contextmanager
def bucket() -> Iterator[tuple[Any, int]]:
    """A client of a server with the bucket `buck`, and the server's port."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="k", aws_secret_access_key="s",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="buck")
    yield client, port
    server.stop()


@contextlib.contextmanager
def failing(behind: int) -> Iterator[tuple[Failing, dict[str, str]]]:
    """A server before the one at a port, and the environment in which it is asked."""
    proxy = Failing(behind)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield proxy, {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}"}
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def put(client: Any, folder: Path, prefix: str) -> str:
    """Copy a folder into the bucket; its address."""
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder)}"
            client.put_object(Bucket="buck", Key=key, Body=path.read_bytes(), ACL="public-read")
    return f"s3://buck/{prefix}"
