"""Pages of one file that needs nothing else: a style, a body, data as JSON, and one script.

Scripts write text only, and a content security policy lets no other script run, so that names and
C lines of a hostile object stay text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files


def document(title: str, style: str, script: str, body: str, data: object) -> str:
    """The whole page; the script finds `data` in the element `data`."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text_of(title)}</title>",
            f"<style>\n{style}</style>\n</head>\n<body>",
            body,
            f'<script type="application/json" id="data">{_json(data)}</script>',
            f"<script>{script}</script>\n</body>\n</html>\n",
        )
    )


def asset(name: str) -> str:
    """A style or script that comes with the package."""
    return files("pybpfvm.report").joinpath("page", name).read_text(encoding="utf-8")


def text_of(text: str) -> str:
    """Text of an object: escaped, control characters made visible."""
    return escape("".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text))


def _json(data: object) -> str:
    """JSON that can stand inside a script element: nothing in it can end that."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
