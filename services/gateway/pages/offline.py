"""What may stay in a browser: a name and an icon for the home screen, a worker that keeps static files, and the page it shows when
the line is down. Nothing of it is about anybody, and none of it depends on who asks."""

import hashlib
from functools import cache
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flask import Blueprint, Response, abort, g, make_response, render_template

from services.gateway.pages.language import LANGUAGES, Language, catalogue_files, gettext, mark
from services.gateway.read_model import Json

STATIC = Path(__file__).parent.parent / "static"
TEMPLATES = Path(__file__).parent.parent / "templates"

SHELL = ("haven.css", "haven.js", "live.js", "kept.js", "htmx.js", "favicon.svg")
"""What every page is made of, under addresses that change when they do."""
LETTERS = "atkinson-hyperlegible-next-latin.woff2"
"""Under the address that the style sheet has."""
NAME = mark("Planning")
"""On the home screen: a word that says nothing to whoever holds the phone. So do the icons."""
BLUE = "#1d4f91"


def offline_pages() -> Blueprint:
    """Open to everybody, and the same for everybody who reads the same language."""
    blueprint = Blueprint("offline", __name__)

    @blueprint.get("/app.<code>.webmanifest")
    def manifest(code: str) -> Response:
        _speak(code)
        response = Response(msgspec.json.encode(_manifest(code)), content_type="application/manifest+json")
        return _the_same_for_everybody(response)

    @blueprint.get("/worker.<code>.js")
    def worker(code: str) -> Response:
        _speak(code)
        shell = {"name": f"shell-{shell_version(code)}", "files": [*map(static_address, SHELL), f"/static/{LETTERS}"]}
        said = msgspec.json.encode(shell | {"offline": f"/offline/{code}"}).decode()
        source = (STATIC / "worker.js").read_text()
        return _the_same_for_everybody(Response(f"const SHELL={said};\n{source}", content_type="text/javascript"))

    @blueprint.get("/offline/<code>")
    def offline(code: str) -> Response:
        _speak(code)
        return _the_same_for_everybody(make_response(render_template("offline.html")))

    return blueprint


@cache
def static_address(name: str) -> str:
    """The address of a file, which changes when the file does: it may be kept for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?{digest}"


@cache
def shell_version(code: str) -> str:
    """A digest of everything the shell in this language is made of. When it changes, the worker does: the browser notices with
    the next page, keeps the new shell, and drops the old one."""
    templates = [TEMPLATES / name for name in ("offline.html", "phones.html")]
    parts = [*(STATIC / name for name in ("worker.js", LETTERS, *SHELL)), *templates, *catalogue_files(code)]
    whole = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in parts)
    return hashlib.sha256(code.encode() + whole).hexdigest()[:16]


def kept_key(secret: str, person: str) -> bytes:
    """What opens the numbers that a person's browser keeps while the line is down. It is in their own pages alone: neither the
    phone nor whoever signs in on it next has it."""
    info = b"haven kept numbers\0" + person.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret.encode())


def _manifest(code: str) -> Json:
    name = gettext(NAME)
    return {
        "id": "/",
        "name": name,
        "short_name": name,
        "lang": code,
        "dir": "ltr",
        # Not the first page, which says what this is. Whoever is signed in is led on; everybody else is asked who they are.
        "start_url": "/sign-in",
        "scope": "/",
        "display": "minimal-ui",
        "theme_color": BLUE,
        "background_color": "#ffffff",
        "icons": [
            {"src": static_address("icon-192.png"), "sizes": "192x192", "type": "image/png"},
            {"src": static_address("icon-512.png"), "sizes": "512x512", "type": "image/png"},
            {
                "src": static_address("icon-maskable.png"),
                "sizes": "512x512",
                "type": "image/png",
                "purpose": "maskable",
            },
        ],
    }


def _speak(code: str) -> Language:
    """The language that the address names: what is kept must not depend on a cookie."""
    g.language = next((one for one in LANGUAGES if one.code == code), None) or abort(404)
    return g.language  # type: ignore[no-any-return]


def _the_same_for_everybody(response: Response) -> Response:
    """May be kept, and is asked for anew each time it is needed."""
    response.headers["Cache-Control"] = "public, no-cache"
    return response
