"""Pages that are sent gzipped."""

from __future__ import annotations

import gzip

from fastapi import Request
from fastapi.responses import HTMLResponse

# From here on a page takes more time and hardly fewer bytes.
LEVEL = 6


def compressed(request: Request, page: HTMLResponse) -> HTMLResponse:
    """The page, gzipped where the browser takes that.

    Only for pages that repeat nothing of the request: beside words that somebody else chooses, the
    length of a gzipped page gives away what is secret in it, such as the token of its forms.

    Args:
        request: What is answered.
        page: The answer; its body is replaced.
    """
    page.headers["Vary"] = "Accept-Encoding"
    accepted = request.headers.get("accept-encoding", "").replace(" ", "").split(",")
    if "gzip" in accepted:
        page.body = gzip.compress(bytes(page.body), LEVEL, mtime=0)
        page.headers["Content-Encoding"] = "gzip"
        page.headers["Content-Length"] = str(len(page.body))
    return page
