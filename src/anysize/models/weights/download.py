"""Files of weights from an address: whole or not at all, checked against what their name and the server say."""

import hashlib
import http.client
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from anysize.files import open_regular
from anysize.models.weights.addresses import BY_HAND
from anysize.registry import UserError

_ADDRESS = re.compile(r"(https?|file)://", re.IGNORECASE)
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.")
_TIMEOUT = 30.0  # seconds without a byte


def is_address(text: object) -> bool:
    """Whether a text is an address, and not a path.

    >>> is_address("https://x.org/a.pth"), is_address("runs/a.pth")
    (True, False)
    """
    return bool(_ADDRESS.match(str(text)))


def hub_folder() -> Path:
    """The folder that torch keeps downloaded weights in."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def download(url: str, what: str = "") -> Path:
    """The file at an address (http, https or file), below `hub_folder`; downloaded unless it is there.

    The digest that torchvision's names end in (`resnet18-f37072fd.pth`) is checked, as is the length that the server
    tells. A name without one, such as `model.pth`, may mean several files: each address then has a folder of its own.
    Nothing is left under the file's name unless all of it came.

    Args:
        what: the file in words, for messages.

    Raises:
        UserError: no network, no such file, a full disk, half a file, another digest, or a page to download from by
            hand.
    """
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if BY_HAND.match(url) or not name:
        raise _by_hand(url)
    folder = "" if _DIGEST.search(name) else hashlib.sha256(url.encode()).hexdigest()[:8]
    path, what = hub_folder() / folder / name, what or f"the file at {url}"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, path)
    except (OSError, http.client.HTTPException) as error:  # no network, no such file, a full disk
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise UserError(
            f"{what} could not be downloaded ({reason(error)}): put the file {name} into {path.parent}, or give its "
            "path instead"
        ) from None
    return path


def _fetch(url: str, path: Path) -> None:
    if urlsplit(url).scheme.lower() == "file":
        open_regular(urllib.request.url2pathname(urlsplit(url).path)).close()  # no device, whose end never comes
    request = urllib.request.Request(url, headers={"User-Agent": "anysize"})
    with (
        urllib.request.urlopen(request, timeout=_TIMEOUT) as answer,
        tempfile.TemporaryDirectory(dir=path.parent, prefix="download-") as folder,
    ):
        if answer.headers.get_content_type() == "text/html":
            raise _by_hand(url)
        part = Path(folder) / path.name
        with part.open("xb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
        expected, size = answer.headers.get("Content-Length"), part.stat().st_size
        if expected is not None and size != int(expected):
            raise OSError(f"it ended after {size:,} of {int(expected):,} bytes")
        digest = _DIGEST.search(path.name)
        if digest and not (found := sha256(part)).startswith(digest[1]):
            raise OSError(f"its sha256 begins with {found[: len(digest[1])]}, not with {digest[1]} as its name says")
        part.replace(path)


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_hand(url: str) -> UserError:
    return UserError(
        f"{url} is a page, not a file: open it in a browser, put the file into {hub_folder()} or another folder, and "
        "give its path"
    )


def reason(error: BaseException) -> str:
    """The first line of the error that others were made of, without addresses."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "reason", "") or error).strip().splitlines()
    return re.sub(r"https?://\S+", "its address", text[0])[:120] if text else type(error).__name__
