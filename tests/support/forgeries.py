"""Sign-in tokens as an attacker would make them, of one that is good."""

import base64
import functools
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from tests.support.gateway import KEY

HS256 = {"alg": "HS256", "typ": "JWT"}
RSA_PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf
9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END PUBLIC KEY-----
"""


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(
    payload: object,
    header: object = HS256,
    key: str | None = None,
    digest: str = "sha256",
    *,
    raw: bytes | None = None,
    default_key: str = "",
) -> str:
    """A token with any header and payload, signed without a library's scruples."""
    body = json.dumps(payload).encode() if raw is None else raw
    content = f"{encoded(json.dumps(header).encode())}.{encoded(body)}"
    used = default_key if key is None else key
    return f"{content}.{encoded(hmac.new(used.encode(), content.encode(), digest).digest())}"


def claiming(token: str, key: str = KEY, **claims: object) -> str:
    """Return a token with other claims, signed with `key`."""
    said = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(said | claims, key, algorithm="HS256")


def altered(token: str, part: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)


def twice(good: Mapping[str, object], name: str, second: object) -> bytes:
    """A payload that says something twice: most parsers take the last."""
    return json.dumps(dict(good)).encode()[:-1] + f',"{name}":{json.dumps(second)}}}'.encode()


def doubled(good: Mapping[str, object], name: str, second: object, key: str) -> str:
    header = encoded(twice(HS256, name, second))
    content = f"{header}.{encoded(json.dumps(dict(good)).encode())}"
    return f"{content}.{encoded(hmac.new(key.encode(), content.encode(), 'sha256').digest())}"


def forgeries(good: Mapping[str, Any], key: str) -> dict[str, str]:
    """Forged and stale tokens by name, of the claims of a live session; `key` is the true one."""
    good, now = dict(good), int(good["iat"])
    sign = functools.partial(signed, default_key=key)
    return {
        "empty": "",
        "the word null": "null",
        "one dot": "a.b",
        "only dots": "..",
        "four parts": sign(good) + ".x",
        "no signature": altered(sign(good), 2, lambda _: ""),
        "half a signature": altered(sign(good), 2, lambda s: s[:20]),
        "altered signature": altered(sign(good), 2, lambda s: ("B" if s[0] == "A" else "A") + s[1:]),
        "junk inside the signature": altered(sign(good), 2, lambda s: s[:9] + "!" + s[9:]),
        "padded signature": sign(good) + "=",
        "other spelling of the signature": altered(sign(good), 2, lambda s: s[:-1] + chr(ord(s[-1]) + 1)),
        "altered payload": altered(
            sign(good), 1, lambda _: encoded(json.dumps(good | {"sub": "2"}).encode())
        ),
        "space before": " " + sign(good),
        "newline after": sign(good) + "\n",
        "scheme before": "Bearer " + sign(good),
        "not ASCII": "é" + sign(good),
        "digits of another script": altered(sign(good), 2, lambda s: "٣" + s[1:]),
        "half a surrogate pair": "\ud800" + sign(good),
        "NUL": sign(good) + "\0",
        "huge": sign(good | {"more": "x" * 5000}),
        "megabytes": "x" * 3_000_000,
        "nested header": encoded(b"[" * 3000) + "." + "e30." + "A" * 43,
        "header that is no JSON": encoded(b"{nothing") + ".e30." + "A" * 43,
        "header that is a list": sign(good, ["HS256"]),
        "other key": sign(good, key="another key of the tests, as long as that"),
        "empty key": sign(good, key=""),
        "alg none": altered(sign(good, {"alg": "none", "typ": "JWT"}), 2, lambda _: ""),
        "alg none with signature": sign(good, {"alg": "none", "typ": "JWT"}),
        "alg nOnE": sign(good, {"alg": "nOnE", "typ": "JWT"}),
        "alg HS384": sign(good, {"alg": "HS384", "typ": "JWT"}, digest="sha384"),
        "alg HS512": sign(good, {"alg": "HS512", "typ": "JWT"}, digest="sha512"),
        "alg hs256": sign(good, {"alg": "hs256", "typ": "JWT"}),
        "alg RS256 signed with the key": sign(good, {"alg": "RS256", "typ": "JWT"}),
        "alg HS256 signed with a public key": sign(good, key=RSA_PUBLIC_KEY),
        "alg ES256": sign(good, {"alg": "ES256", "typ": "JWT"}),
        "alg that is a list": sign(good, {"alg": ["HS256"], "typ": "JWT"}),
        "no alg": sign(good, {"typ": "JWT"}),
        "no typ": sign(good, {"alg": "HS256"}),
        "typ at+jwt": sign(good, {"alg": "HS256", "typ": "at+jwt"}),
        "typ JWE": sign(good, {"alg": "HS256", "typ": "JWE"}),
        "kid": sign(good, HS256 | {"kid": "1"}),
        "kid with a path": sign(good, HS256 | {"kid": "../../dev/null"}),
        "kid with SQL": sign(good, HS256 | {"kid": "' OR 1=1 --"}),
        "jku": sign(good, HS256 | {"jku": "https://evil.example/k"}),
        "jwk": sign(good, HS256 | {"jwk": {"kty": "oct", "k": "AA"}}),
        "x5u": sign(good, HS256 | {"x5u": "https://evil.example/c"}),
        "x5c": sign(good, HS256 | {"x5c": ["AA"]}),
        "crit": sign(good, HS256 | {"crit": ["exp"]}),
        "b64 false": sign(good, HS256 | {"b64": False}),
        "cty": sign(good, HS256 | {"cty": "JWT"}),
        **{f"no {name}": sign({key: good[key] for key in good if key != name}) for name in good},
        "nbf huge": sign(
            None, raw=json.dumps(good | {"nbf": 7}).replace(": 7,", f": {'9' * 2500},").encode()
        ),
        **{f"{name} is null": sign(good | {name: None}) for name in good},
        **{f"{name} is a list": sign(good | {name: [good[name]]}) for name in good if name != "role"},
        "type refresh": sign(good | {"type": "refresh"}),
        "other issuer": sign(good | {"iss": "avatar-gateway.evil"}),
        "other audience": sign(good | {"aud": "other"}),
        "several audiences": sign(good | {"aud": ["avatar-gateway", "other"]}),
        "expired": sign(good | {"exp": now - 10}),
        "not yet": sign(good | {"nbf": now + 10}),
        "issued in the future": sign(good | {"iat": now + 10}),
        "exp as text": sign(good | {"exp": str(now + 18_000)}),
        "iat true": sign(good | {"iat": True}),
        "nbf true": sign(good | {"nbf": True}),
        "exp true": sign(good | {"exp": True}),
        "exp with a fraction": sign(good | {"exp": now + 0.5}),
        "exp endless": sign(None, raw=json.dumps(good | {"exp": float("inf")}).encode()),
        "exp not a number": sign(None, raw=json.dumps(good | {"exp": float("nan")}).encode()),
        "sub a number": sign(good | {"sub": 1}),
        "sub zero": sign(good | {"sub": "0"}),
        "sub negative": sign(good | {"sub": "-1"}),
        "sub beyond every id": sign(good | {"sub": "9" * 30}),
        "sub in digits of another script": sign(good | {"sub": "١"}),
        "sub an e-mail": sign(good | {"sub": "ann@school.example"}),
        "jti short": sign(good | {"jti": "0"}),
        "jti a number": sign(good | {"jti": 0}),
        "payload a list": sign([good]),
        "payload no JSON": sign(None, raw=b"nothing"),
        "payload no UTF-8": sign(None, raw=b"\xff\xfe"),
        "payload nested": sign(None, raw=b"[" * 2500),
        "well made, of no session": sign(good | {"jti": "1" * 32}),
        "five parts, as an encrypted one": ".".join(
            [encoded(json.dumps(HS256).encode()), "", "AA", "AA", "AA"]
        ),
        "two tokens": f"{sign(good)},{sign(good)}",
        "two signatures": sign(good) + "." + sign(good).split(".")[2],
        "tab inside": altered(sign(good), 1, lambda s: s[:9] + "\t" + s[9:]),
        "empty header": altered(sign(good), 0, lambda _: ""),
        "empty payload": altered(sign(good), 1, lambda _: ""),
        "payload of another token": altered(
            sign(good), 1, lambda _: sign(good | {"role": "tutor"}).split(".")[1]
        ),
        "padded header": altered(sign(good), 0, lambda s: s + "="),
        "plain base64 in the signature": altered(sign(good), 2, lambda s: s[:-2] + "+/"),
        **{
            f"alg {name}, unsigned": altered(sign(good, {"alg": name, "typ": "JWT"}), 2, lambda _: "")
            for name in ("None", "NONE", "noNe", "none ", "\u0000none", "")
        },
        "alg null": sign(good, {"alg": None, "typ": "JWT"}),
        "alg with a space": sign(good, {"alg": "HS256 ", "typ": "JWT"}),
        "alg PS256": sign(good, {"alg": "PS256", "typ": "JWT"}),
        "alg EdDSA": sign(good, {"alg": "EdDSA", "typ": "JWT"}),
        "alg HS256 signed with a public key, no line breaks": sign(
            good, key=RSA_PUBLIC_KEY.replace("\n", "")
        ),
        "signed with a common word": sign(good, key="secret"),
        "kid of the key itself": sign(good, HS256 | {"kid": "jwt.key"}),
        "kid with a command": sign(good, HS256 | {"kid": "|/usr/bin/uname"}),
        "x5t": sign(good, HS256 | {"x5t": "AA"}),
        "zip": sign(good, HS256 | {"zip": "DEF"}),
        "crit of b64": sign(good, HS256 | {"b64": False, "crit": ["b64"]}),
        "typ in other letters": sign(good, {"alg": "HS256", "typ": "jwt"}),
        "two algs": doubled(good, "alg", "none", key),
        "payload with sub twice": sign(None, raw=twice(good, "sub", "0")),
        "payload with exp twice": sign(None, raw=twice(good, "exp", now - 10)),
        "exp negative": sign(good | {"exp": -1}),
        "exp zero": sign(good | {"exp": 0}),
        "exp before iat": sign(good | {"iat": now, "exp": now - 1}),
        "exp later than ours ever are": sign(good | {"exp": now + 18_001}),
        "exp huge": sign(None, raw=json.dumps(good).replace(str(now + 18_000), "9" * 2500).encode()),
        "exp huge, in another spelling": sign(
            None, raw=json.dumps(good).replace(str(now + 18_000), "1e400").encode()
        ),
        "iat huge": sign(
            None, raw=json.dumps(good | {"iat": 7}).replace(": 7,", f": {'9' * 2500},").encode()
        ),
        "nbf negative": sign(good | {"nbf": -now, "exp": now - 10}),
        "payload with objects nested": sign(None, raw=b'{"a":' * 400 + b"1" + b"}" * 400),
        "role tutor, of a student, badly signed": sign(good | {"role": "tutor"}, key=key[::-1]),
        "type in other letters": sign(good | {"type": "Access"}),
        "issuer in other letters": sign(good | {"iss": "Avatar-Gateway"}),
        "audience empty": sign(good | {"aud": []}),
    }
