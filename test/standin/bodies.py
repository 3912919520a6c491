"""Named answer bodies: what the API says, and what else may arrive in its place.

NAMED maps a name to the status that goes with it by nature (a status=
directive overrides it) and to its bytes; a body that echoes the platform key
is a function of that key instead.  Bodies that are too long for an id can be
added at run time through the control port.
"""

import json


def _json(value):
    return json.dumps(value, ensure_ascii=False).encode()


def flat(error, message, code):
    """The documented error shape."""
    return _json({"error": error, "message": message, "code": code})


def nested(code, message, details=None):
    """The second shape, from the reference's response schema."""
    error = {"code": code, "message": message}
    if details is not None:
        error["details"] = details
    return _json({"success": False, "error": error})


def success(message):
    return _json({"success": True, "data": {"message": message}})


DELETED = success("API key deleted")
UNAUTHORIZED = flat("Unauthorized", "Invalid API key", 401)
FORBIDDEN = flat("Forbidden",
                 "You don't have permission to access this resource", 403)
ABSENT = flat("Not Found", "The requested resource was not found", 404)
RATE_LIMITED = flat("Too Many Requests", "Rate limit exceeded", 429)

HTML = (b"<!DOCTYPE html>\n<html><head><title>Welcome</title></head>"
        b"<body><h1>It works!</h1></body></html>\n")

# Deep nesting that fits a client's cap of 64 KiB, so that depth and not
# length is what the client has to notice.
DEPTH = 30000


def _escaped(text):
    """text as JSON string content, every character a \\uXXXX escape."""
    return "".join("\\u%04x" % ord(character) for character in text)


def _echo(key):
    return flat("Unauthorized", "Invalid API key " + key, 401)


def _echo_escaped(key):
    return ('{"error": "Unauthorized", "message": "Invalid API key %s",'
            ' "code": 401}' % _escaped(key)).encode()


def _echo_everywhere(key):
    return nested("BAD_KEY_" + key, "%s is not valid: %s" % (key, key),
                  [{"key": key, key: "as a name", "deep": [{"er": key}]}])


def _echo_success(key):
    return success("API key deleted by " + key)


NAMED = {
    # What the API is documented to say.
    "deleted": (200, DELETED),
    "unauthorized": (401, UNAUTHORIZED),
    "forbidden": (403, FORBIDDEN),
    "absent": (404, ABSENT),
    "rate-limited": (429, RATE_LIMITED),
    "nested-forbidden": (403, nested(
        "FORBIDDEN", "Only owners and admins may manage the key",
        [{"field": "role", "expected": ["owner", "admin"]},
         {"field": "workspace"}])),
    "nested-absent": (404, nested("NOT_FOUND", "No API key exists")),
    "success-false": (200, _json(
        {"success": False, "message": "The key is locked"})),
    "nested-success-false": (200, nested("LOCKED", "The key is locked", [])),

    # Documented shapes with something missing or of the wrong type.
    "no-message": (200, b'{"success": true}'),
    "data-null": (200, b'{"success": true, "data": null}'),
    "data-array": (200, b'{"success": true, "data": [{"message": "x"}]}'),
    "message-number": (200, b'{"success": true, "data": {"message": 7}}'),
    "message-null": (200, b'{"success": true, "data": {"message": null}}'),
    "message-empty": (200, success("")),
    "message-top": (200, b'{"success": true, "message": "top"}'),
    "error-only": (404, b'{"error": "Not Found"}'),
    "error-number": (404, b'{"error": 404, "message": "Not Found"}'),
    "error-null": (404, b'{"error": null, "message": "Not Found"}'),
    "error-empty": (404, b'{"error": {}}'),
    "gateway": (404, b'{"message":"no route"}'),
    "empty-object": (200, b"{}"),
    "nested-no-message": (
        403, b'{"success": false, "error": {"code": "FORBIDDEN"}}'),
    "nested-code-number": (
        403, b'{"success": false, "error": {"code": 403, "message": "no"}}'),
    "details-object": (403, nested("FORBIDDEN", "no", {"not": "an array"})),
    "details-scalars": (403, nested("FORBIDDEN", "no", [1, "two", None])),
    "success-and-error": (200, b'{"success": true, "error": {"code": "X",'
                               b' "message": "both"}}'),

    # Success that is none, or is hard to see.
    "success-missing": (200, b'{"data": {"message": "API key deleted"}}'),
    "success-null": (200, b'{"success": null}'),
    "success-one": (200, b'{"success": 1}'),
    "success-string": (200, b'{"success": "true"}'),
    "success-upper": (200, b'{"success": TRUE}'),
    "success-inside": (200, b'{"data": {"success": true}}'),
    "success-array": (200, b'[{"success": true}]'),
    "success-case": (200, b'{"Success": true}'),
    "dup-success": (200, b'{"success": false, "success": true}'),
    "dup-success-same": (200, b'{"success": true, "success": true}'),
    "dup-success-escaped": (
        200, b'{"success": false, "\\u0073uccess": true}'),
    "success-escaped": (200, b'{"\\u0073uccess": true}'),

    # No JSON, or not quite.
    "empty": (200, b""),
    "blank": (200, b" \r\n\t "),
    "html": (200, HTML),
    "text": (200, b"deleted\n"),
    "broken": (200, b'{"success": true, "data": }'),
    "truncated-json": (200, b'{"success": true, "data": {"message": "API'),
    "trailing": (200, DELETED + b" garbage"),
    "two-documents": (200, DELETED + DELETED),
    "comma": (200, b'{"success": true,}'),
    "single-quotes": (200, b"{'success': true}"),
    "nan": (200, b'{"success": true, "data": NaN}'),
    "array": (200, b"[]"),
    "string": (200, b'"success"'),
    "number": (200, b"1"),
    "true": (200, b"true"),
    "null": (200, b"null"),
    "deep": (200, b"[" * DEPTH + b"]" * DEPTH),
    "deep-success": (200, b'{"success": true, "data": ' + b"[" * DEPTH +
                     b"]" * DEPTH + b"}"),
    "deep-objects": (200, b'{"a":' * 10000 + b"1" + b"}" * 10000),
    "deeper": (200, b"[" * 100000 + b"]" * 100000),

    # Characters.
    "utf8": (200, success("d\u00e9j\u00e0 vu \u65e5\u672c \U0001f511")),
    "utf8-escaped": (200, json.dumps({"success": True, "data": {
        "message": "d\u00e9j\u00e0 vu \u65e5\u672c \U0001f511"}}).encode()),
    "badutf8": (200, b'{"success": true, "data": {"message": "\xff\xfe"}}'),
    "overlong": (200, b'{"success": true, "data": {"message": "\xc0\xaf"}}'),
    "latin1": (200, b'{"success": true, "data": {"message": "caf\xe9"}}'),
    "utf16": (200, DELETED.decode().encode("utf-16")),
    "bom": (200, b"\xef\xbb\xbf" + DELETED),
    "surrogate": (200, b'{"success": true, "data": {"message": "\\ud83d"}}'),
    "nul": (200, b'{"success": true, "data": {"message": "a\0b"}}'),
    "nul-end": (200, DELETED + b"\0"),
    "escaped-nul": (
        200, b'{"success": true, "data": {"message": "a\\u0000b"}}'),
    "control": (200, success(
        "line\r\nnext\ttab \0 nul \x1b[31mred \x07 \x7f \u0085 end")),
    "raw-control": (
        200, b'{"success": true, "data": {"message": "a\nb\x01c"}}'),
    "long-message": (200, success("\u00e9x" * 20000)),
    "long-error": (403, flat("Forbidden", "long " * 12000, 403)),
    "long-unauthorized": (401, flat("Unauthorized", "\u00e9" * 300, 401)),
    "long-code": (403, nested("C" * 60000, "message")),
    # as texts of jsonb, so many bytes long
    "details-4096": (403, nested("C", "message", ["x" * 4092])),
    "details-4097": (403, nested("C", "message", ["x" * 4093])),
    "key-at-cut": (403, flat("Forbidden", "x" * 1018 + "sk_user_1234567890", 403)),
    "prefixes": (403, flat("Forbidden", "sk_" * 20000, 403)),
    "prefixes-apart": (403, flat("Forbidden", "sk_user_1 " * 6000, 403)),

    # A body that tells the key to whoever logs it.
    "echo-key": (401, _echo),
    "echo-key-json": (401, _echo_escaped),
    "echo-key-everywhere": (403, _echo_everywhere),
    "echo-key-success": (200, _echo_success),
}

# Natural content types of the bodies that are no JSON.
TYPES = {"html": "text/html; charset=utf-8", "text": "text/plain"}

BY_STATUS = {
    200: DELETED, 401: UNAUTHORIZED, 403: FORBIDDEN, 404: ABSENT,
    429: RATE_LIMITED,
}


def for_status(status, reason):
    """The body of a status= directive that names none."""
    if status in (204, 205) or status < 200 or 300 <= status < 400:
        return b""
    if status < 300:
        return DELETED
    return BY_STATUS.get(status) or flat(reason, reason, status)


def named(name, key):
    """Status and bytes of a named body; key is the platform key as received."""
    status, body = NAMED[name]
    return status, body(key) if callable(body) else body
