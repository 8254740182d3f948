"""Taking secrets out of text that a person hands on: keys, join tokens, passwords in URLs, what a name calls secret.

It errs on the side of taking too much. What nobody can recognise stays: an app may print whatever it likes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

GONE = "…"
"""What stands in a secret's place."""

SECRET_NAMES = ("secret", "token", "passw", "passphrase", "private", "credential", "api_key", "apikey", "authorization")
"""Parts of names, in lower case, of what is a secret."""

_NAMES = "|".join(name.replace("_", "[-_]?") for name in SECRET_NAMES)
_B64 = r"[A-Za-z0-9+/=]"
_NEWLINE = r"(?:\r?\n|\\n)"  # a line's end, or how JSON writes it
_RULES = (
    # a private key; also one whose end, or whose beginning, was cut off
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), GONE),
    (re.compile(rf"(?:{_B64}+{_NEWLINE})*{_B64}*-----END [A-Z ]*PRIVATE KEY-----"), GONE),
    # a join token, id.secret: the id is no secret and tells which it was
    (re.compile(r"\b([0-9a-f]{8})\.[A-Za-z0-9_-]{32}(?![A-Za-z0-9_-])"), rf"\1.{GONE}"),
    (re.compile(r"(\w://[^\s/:@]*):[^\s/@]+@"), rf"\1:{GONE}@"),
    # name=value, name: value, "name": "value", --name value
    (
        re.compile(
            rf"""((?:^|[^\w-]|--)["']?[\w.-]*(?:{_NAMES})[\w.-]*["']?\s*[=:]\s*|--[\w-]*(?:{_NAMES})[\w-]*\s+)"""
            r"""("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;}\]]+)""",
            re.IGNORECASE | re.MULTILINE,
        ),
        rf"\1{GONE}",
    ),
)


def redact(text: str) -> str:
    """Return the text without what looks like a secret."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text


def redact_data(data: object) -> object:
    """Return plain data (of JSON) without the values whose names say that they are secrets; texts as by `redact`."""
    if isinstance(data, Mapping):
        return {str(key): GONE if _is_secret(str(key)) else redact_data(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [redact_data(each) for each in data]
    return redact(data) if isinstance(data, str) else data


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in SECRET_NAMES)
