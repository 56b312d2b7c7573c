"""Lists page by page: how many at once, and the cursor that leads to the next."""

import base64
import binascii
from typing import Annotated, Any

import msgspec

from services.gateway import problems
from services.gateway.routing import Call

LARGEST_PAGE = 100

CursorText = Annotated[str, msgspec.Meta(pattern=r"\A[\x20-\x7e]{0,200}\Z")]
CursorNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


def page_size(call: Call) -> int:
    sent = call.query("limit")
    if sent is None:
        return 50
    if not sent.isascii() or not sent.isdigit() or not 1 <= int(sent[:9]) <= LARGEST_PAGE:
        raise problems.bad_field("limit", f"a number from 1 to {LARGEST_PAGE}")
    return int(sent)


def write_cursor(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(call: Call, shape: Any) -> Any:
    """The sort key in `cursor`, or None. A cursor opens nothing: what may be seen is checked again for every page."""
    sent = call.query("cursor", longest=500)
    if sent is None:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(sent + "=" * (-len(sent) % 4)), type=shape)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise problems.bad_field("cursor", "exactly as the Link header gave it") from None
