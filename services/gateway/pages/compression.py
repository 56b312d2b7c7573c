"""Fewer bytes on the line, for a phone at night."""

import gzip
from functools import lru_cache

from flask import Response, request

_TEXT = frozenset({"text/html", "text/css", "text/javascript", "image/svg+xml", "application/manifest+json"})
_SMALLEST = 500


def compressed(response: Response, *, is_static: bool) -> Response:
    """The same answer, packed if the browser can unpack it, and if nobody can learn anything from how long it is.

    A page holds the token of its forms, and repeats parts of its address: whoever could have it fetched again and again with
    other addresses, and sees how long each answer is, would learn the token letter by letter (BREACH). So a page is packed only
    for a request that the browser says our own page or the person made; one that another site started gets it as it is.
    """
    if response.mimetype not in _TEXT or response.status_code != 200 or (response.is_streamed and not is_static):
        return response
    response.vary.add("Accept-Encoding")
    if not is_static and request.headers.get("Sec-Fetch-Site") not in ("same-origin", "none"):
        return response
    if request.method != "GET" or not request.accept_encodings.quality("gzip"):
        return response
    response.direct_passthrough = False
    body = response.get_data()
    if len(body) >= _SMALLEST:
        response.set_data(_packed_once(body) if is_static else gzip.compress(body, 6, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
    return response


@lru_cache(maxsize=64)
def _packed_once(body: bytes) -> bytes:
    return gzip.compress(body, 9, mtime=0)
