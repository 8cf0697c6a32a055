"""Requests with one image, as real clients send them, grouped by the answer that they must get."""

from __future__ import annotations

import base64
import gzip
import zlib
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import quote_plus

BOUNDARY = "----WebKitFormBoundary7MA4YWxk"
_DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="a.jpg"\r\n'

JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
ACCEPTS_JSON = {
    "curl, requests, wget, fetch, Postman": "*/*",
    "axios": "application/json, text/plain, */*",
    "Java's HttpURLConnection up to 17": JAVA,
    "Java's HttpURLConnection after 17": "text/html, image/gif, image/jpeg, */*; q=0.2",
    "Chrome navigates": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Firefox navigates": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "old IE": "image/gif, image/jpeg, image/pjpeg, application/x-ms-application, */*",
    "a page and an image, equally": "text/html;q=0.9, image/jpeg;q=0.9",
    "JSON preferred": "application/json, image/jpeg;q=0.1",
    "both equally": "application/json, image/jpeg",
    "no image": "image/jpeg;q=0.0, */*",
    "any image except JPEG": "image/jpeg;q=0, image/*",
    "a weight in capitals": "image/jpeg; Q=0.000",
    "anything equally": "image/jpeg, */*",
    "anything equally, by its weight": "image/jpeg;q=0.5, */*;q=0.5",
    "any image, or anything": "image/*, */*",
    "only an unsupported format": "image/png",
    "a weight that is a word": "image/jpeg;q=high",
    "a weight that is NaN": "image/jpeg;q=nan",
    "half a type": "image/",
    "nonsense": ";;image/;;,,",
    "a comma in a quoted value": 'text/x;a="1, image/jpeg"',
    "a weight in a quoted value": 'image/jpeg;q=0.5, application/json;profile="x;q=0.1"',
    "a quote in a quoted value": r'image/jpeg;q=0.5, application/json;profile="x\";q=0.1"',
    "a weight in quotes": 'image/jpeg;q="1"',
}
ACCEPTS_PICTURE = {
    "as documented": "image/jpeg",
    "in capitals": "IMAGE/JPEG",
    "by a common wrong name": "image/jpg",
    "JPEG preferred to anything": "image/jpeg, */*;q=0.8",
    "JPEG preferred to JSON": "image/jpeg, application/json;q=0.9",
    "by weights": "image/jpeg;q=0.3, application/json;q=.2",
    "spaces everywhere": "image/jpeg ; q = 0.7 , */* ; q = 0.1",
    "a weight above one counts as one": "image/jpeg;q=1.5",
    "JPEG preferred to a page": "text/html;q=0.5, image/jpeg",
    "any image": "image/*",
    "a browser's img": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    "JPEG preferred to any application type": "image/jpeg, application/*;q=0.5",
    "a semicolon in a quoted value": 'image/jpeg;profile="x;q=0.1", application/json;q=0.5',
}


@dataclass(frozen=True)
class Sent:
    """A POST request. ``path`` includes the query string."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/detect"


def part(content: bytes, head: bytes = _DISPOSITION, boundary: str = BOUNDARY) -> bytes:
    """Return a multipart part with the delimiter before the part."""
    return b"--" + boundary.encode() + b"\r\n" + head + b"\r\n" + content + b"\r\n"


def form(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    """Return a multipart body of these parts."""
    return b"".join(parts) + b"--" + boundary.encode() + b"--\r\n"


def _multipart(body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> Sent:
    return Sent(body, {"Content-Type": kind} if kind else {})


def multipart_forms(picture: bytes) -> dict[str, Sent]:
    """Return multipart requests with this image (RFC 2046, RFC 7578).

    The keys say what is unusual about each request.
    """
    plain, closed = form(part(picture)), f"--{BOUNDARY}--".encode()
    head, odd = b'Content-Disposition: form-data; name="%b"\r\n', "it's(odd)+_,./:=? b"
    octets = b"Content-Type: application/octet-stream\r\n"
    lines = b"--B\n" + _DISPOSITION.replace(b"\r\n", b"\n") + b"\n" + picture + b"\n--B--\n"
    mime = b"MIME-Version: 1.0\r\n" + _DISPOSITION + b"Content-Transfer-Encoding: %b\r\n"
    return {
        "as curl sends it": _multipart(plain),
        "a preamble": _multipart(b"This is a multi-part message in MIME format.\r\n" + plain),
        "an empty line before it": _multipart(b"\r\n" + plain),
        "a preamble that looks like a boundary": _multipart(f"--{BOUNDARY}x is not ours\r\n".encode() + plain),
        "an epilogue": _multipart(plain + b"The end.\r\nReally.\r\n"),
        "an epilogue with a part": _multipart(plain + part(b"another")),
        "no line end at its end": _multipart(plain.removesuffix(b"\r\n")),
        "a NUL at its end": _multipart(plain.removesuffix(b"\r\n") + b"\0"),
        "a quoted boundary": _multipart(
            form(part(picture, boundary=odd), boundary=odd), f'multipart/form-data; boundary="{odd}"'
        ),
        "a charset next to the boundary": _multipart(plain, f"multipart/form-data; charset=utf-8; Boundary={BOUNDARY}"),
        "white space after the boundary": _multipart(plain.replace(b"--\r\n", b"-- \t\r\n")),
        "lines that end in LF": _multipart(lines, "multipart/form-data; boundary=B"),
        "filename* alone": _multipart(form(part(picture, head[:-2] % b"file" + b"; filename*=UTF-8''%C3%A4.jpg\r\n"))),
        "filename and filename*": _multipart(
            form(part(picture, head[:-2] % b"file" + b"; filename=\"a.jpg\"; filename*=UTF-8''%C3%A4.jpg\r\n"))
        ),
        "a filename in UTF-8": _multipart(
            form(part(picture, _DISPOSITION.replace(b"a.jpg", "фото 写真.jpg".encode())))
        ),
        "a filename with quotes and a semicolon": _multipart(
            form(part(picture, _DISPOSITION.replace(b"a.jpg", rb"a\"b;c.jpg")))
        ),
        "a Windows path for a filename": _multipart(
            form(part(picture, _DISPOSITION.replace(b"a.jpg", rb"C:\x\a.jpg")))
        ),
        "an empty filename": _multipart(form(part(picture, _DISPOSITION.replace(b"a.jpg", b"")))),
        "no filename": _multipart(form(part(picture, head % b"file"))),
        "no filename, but a type": _multipart(form(part(picture, head % b"image" + octets))),
        "another field name": _multipart(form(part(picture, _DISPOSITION.replace(b'"file"', b'"image"')))),
        "a field name of PHP": _multipart(form(part(picture, _DISPOSITION.replace(b'"file"', b'"files[]"')))),
        "a field without a name": _multipart(
            form(part(picture, b'Content-Disposition: form-data; filename="a.jpg"\r\n'))
        ),
        "no headers but a type": _multipart(form(part(picture, octets)), f"multipart/mixed; boundary={BOUNDARY}"),
        "names without quotes": _multipart(
            form(part(picture, b"content-disposition:form-data;name=file;filename=a\r\n"))
        ),
        "a folded header": _multipart(form(part(picture, _DISPOSITION.replace(b"; f", b";\r\n f")))),
        "an input that was left empty": _multipart(
            form(part(picture), part(b"", head[:-2] % b"more" + b'; filename=""\r\n'))
        ),
        "a part as base64": _multipart(form(part(base64.encodebytes(picture), mime % b"base64"))),
        "a part as binary": _multipart(form(part(picture, mime % b"Binary"))),
        "no boundary in its type": _multipart(plain, "multipart/form-data"),
        "a wrong type": _multipart(plain, "application/octet-stream"),
        "called JSON": _multipart(plain, "application/json"),
        "no type at all": _multipart(plain, ""),
        "multipart/related": _multipart(plain, f'multipart/related; type="image/jpeg"; boundary="{BOUNDARY}"'),
        "its closing boundary alone on a line": _multipart(part(picture) + closed + b"\n"),
    }


def types(picture: bytes) -> dict[str, Sent]:
    """Return requests that send this image with a right, a wrong or no Content-Type."""
    names = ("image/jpeg", "image/jpg", "image/png", "application/octet-stream", "application/json", "text/plain")
    others = ("application/x-www-form-urlencoded", "text/html; charset=utf-8", "*/*", "nonsense", "binary/octet-stream")
    return {f"called {name}": Sent(picture, {"Content-Type": name}) for name in (*names, *others)} | {
        "no type": Sent(picture)
    }


def codings(picture: bytes) -> dict[str, Sent]:
    """Return requests that send this image in the supported content codings (RFC 9110, section 8.4)."""
    raw = zlib.compressobj(wbits=-15)
    half, packed = len(picture) // 2, gzip.compress(form(part(picture)))
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return {
        "gzip": Sent(gzip.compress(picture), {"Content-Encoding": "gzip"}),
        "GZIP in capitals": Sent(gzip.compress(picture), {"Content-Encoding": "GZIP"}),
        "x-gzip": Sent(gzip.compress(picture), {"Content-Encoding": "x-gzip"}),
        "gzip in two members": Sent(
            gzip.compress(picture[:half]) + gzip.compress(picture[half:]), {"Content-Encoding": "gzip"}
        ),
        "deflate": Sent(zlib.compress(picture), {"Content-Encoding": "deflate"}),
        "deflate without its zlib wrapper": Sent(raw.compress(picture) + raw.flush(), {"Content-Encoding": "deflate"}),
        "identity": Sent(picture, {"Content-Encoding": "identity"}),
        "a form, compressed": Sent(packed, {"Content-Encoding": "gzip", "Content-Type": kind}),
    }


def parameters(picture: bytes) -> dict[str, Sent]:
    """Return requests that set the confidence to 0.3. The keys say how each request passes the parameter."""
    head = b'Content-Disposition: form-data; name="%b"\r\n'
    octets = b"Content-Type: application/octet-stream\r\n"

    def field_of(name: bytes, value: bytes = b"0.3") -> Sent:
        return _multipart(form(part(value, head % name), part(picture)))

    names = ("confidence", "conf", "conf_thres", "conf_threshold", "confidence_threshold")
    return {f"{name} in the query": Sent(picture, {}, f"/detect?{name}=0.3") for name in names} | {
        "a field of the form": field_of(b"confidence"),
        "a field, called conf": field_of(b"conf"),
        "a field with a type": _multipart(
            form(part(picture), part(b"0.3", head % b"confidence" + b"Content-Type: text/plain; charset=utf-8\r\n"))
        ),
        "a field next to another field name": _multipart(
            form(part(b"0.3", head % b"conf"), part(picture, _DISPOSITION.replace(b'"file"', b'"image"')))
        ),
        "a field as a file, of requests": _multipart(
            form(part(b"0.3", head[:-2] % b"conf" + b'; filename="conf"\r\n'), part(picture))
        ),
        "a field as octets": _multipart(form(part(b"0.3", head % b"conf" + octets), part(picture))),
        "a field as a Blob": _multipart(
            form(part(picture), part(b"0.3", head[:-2] % b"confidence" + b'; filename="blob"\r\n' + octets))
        ),
        "an empty field": Sent(
            form(part(b"", head % b"iou"), part(picture)),
            {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
            "/detect?confidence=0.3",
        ),
    }


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes((32 << 20) + 1), 1)  # one byte more than the size limit of request bodies


def refused(picture: bytes) -> dict[str, tuple[Sent, int, str]]:
    """Return requests that must be refused, each with the expected status and a part of the expected advice."""
    text = base64.b64encode(picture)
    url, json = b"data:image/jpeg;base64," + text, {"Content-Type": "application/json"}
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    head = b'Content-Disposition: form-data; name="%b"\r\n'
    instead = {
        "imgsz": "send the image as it is", "CONF": "did you mean confidence?", "threshold": "use confidence",
        "Confidence": "did you mean confidence?", "classes[0]": "did you mean classes?", "labels": "use classes",
        "api_key": "Authorization: Bearer", "format": "Accept: image/jpeg", "url": "send the image as the body",
        "camera": "'camera': there is no such parameter",
    }  # fmt: skip
    squeezed = picture.replace(b"\n", b"").replace(b"\r", b"").replace(b"\0", b"")
    packed, coded = gzip.compress(picture), {"Content-Encoding": "gzip"}
    how = "--data-binary"
    return {
        "base64 in JSON": (Sent(b'{"image": "' + text[:4000] + b'"}', json), 422, how),
        "much base64 in JSON": (Sent(b'{"image": "' + text * 9 + b'"}', json), 413, how),
        "JSON without its type": (Sent(b'{"image": "/9j/4AAQ"}', urlencoded), 422, how),
        "base64 as a JSON string": (Sent(b'"' + text[:4000] + b'"', json), 422, how),
        "a data URL as a url": (Sent(b'{"url": "' + url[:4000] + b'"}', json), 422, how),
        "base64 as a body": (Sent(text), 415, how),
        "base64 in lines": (Sent(base64.encodebytes(picture), {"Content-Type": "image/jpeg"}), 415, how),
        "a data URL as a body": (Sent(url), 415, how),
        "a data URL in a form": (_multipart(form(part(url, head % b"file"))), 415, how),
        "a form that is not multipart": (Sent(b"image=" + quote_plus(text).encode(), urlencoded), 415, how),
        "curl -d": (Sent(squeezed + bytes(range(14, 256)) * 40, urlencoded), 400, how),
        "brotli": (Sent(picture, {"Content-Encoding": "br"}), 415, "gzip or deflate"),
        "zstd": (Sent(picture, {"Content-Encoding": "zstd"}), 415, "gzip or deflate"),
        "two codings": (Sent(packed, {"Content-Encoding": "gzip, gzip"}), 415, "gzip or deflate"),
        "a charset for a coding": (Sent(picture, {"Content-Encoding": "utf-8"}), 415, "gzip or deflate"),
        "a body that is not gzip as claimed": (Sent(picture, coded), 400, "cannot be inflated"),
        "gzip that is cut off": (Sent(packed[:-9], coded), 400, "truncated"),
        "a gzip bomb": (Sent(_bomb(), coded), 413, "limits.max_body_mib"),
        "imgsz": (Sent(picture, {}, "/detect?imgsz=1280"), 422, "send the image as it is"),
        "threshold": (Sent(picture, {}, "/detect?threshold=0.3"), 422, "use confidence"),
        "a parameter in capitals": (Sent(picture, {}, "/detect?Confidence=0.3"), 422, "did you mean confidence?"),
        "a key in the query": (Sent(picture, {}, "/detect?api_key=s"), 422, "Authorization: Bearer"),
        "a format in the query": (Sent(picture, {}, "/detect?format=image"), 422, "Accept: image/jpeg"),
        "conf and confidence": (Sent(picture, {}, "/detect?conf=0.3&confidence=0.4"), 422, "more than once"),
        **{
            f"a field for {name}": (_multipart(form(part(b"7", head % name.encode()), part(picture))), 422, word)
            for name, word in instead.items()
        },
        "many empty fields": (_multipart(form(*[part(b"", head % b"conf")] * 49, part(picture))), 413, "48 parts"),
        "images of several names": (
            _multipart(form(*(part(picture, _DISPOSITION.replace(b"file", name, 1)) for name in (b"a", b"b")))),
            400, "'file'",
        ),
        "a form without an image": (_multipart(form(part(b"0.3", head % b"conf"))), 400, "-F file=@a.jpg"),
        "a wrong boundary": (_multipart(form(part(picture)), "multipart/form-data; boundary=x"), 400, "bound"),
        "a part as uuencode": (
            _multipart(form(part(picture, _DISPOSITION + b"Content-Transfer-Encoding: x-uuencode\r\n"))), 400, "base64",
        ),
    }  # fmt: skip


def texts(picture: bytes) -> dict[str, Sent]:
    """Return requests whose body is text, although the client intended to send an image."""
    kinds = {name: {"Content-Type": name} for name in ("text/plain", "application/json")}
    text = base64.b64encode(b"\xff\xd8\xff" + picture)
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    return {
        "base64url": Sent(text.replace(b"/", b"_").replace(b"+", b"-"), kinds["text/plain"]),
        "Python's bytes, written down": Sent(repr(text).encode(), kinds["text/plain"]),
        "base64, quoted for a URL": Sent(quote_plus(text).encode(), urlencoded),
        "base64 of HEIC": Sent(base64.b64encode(b"\0\0\0\x18ftypheic\0\0\0\0" + picture), kinds["text/plain"]),
        "base64 of AVIF": Sent(base64.b64encode(b"\0\0\0 ftypavif\0\0\0\0" + picture)),
        "hexadecimal": Sent(picture.hex().encode()),
        **{f"{word} as JSON": Sent(word.encode(), kinds["application/json"]) for word in ("null", "3", "true")},
        **{f"JSON in {name}": Sent('{"image": "/9j/"}'.encode(name), kinds["application/json"])
           for name in ("utf-16", "utf-16-be")},
        "a file of JavaScript": Sent(b"[object File]", kinds["text/plain"]),
        "an address": Sent(b"http://camera.example/a.jpg", kinds["text/plain"]),
        "a path in French": Sent("C:\\été\\photo.jpg".encode("latin-1")),
    }  # fmt: skip
