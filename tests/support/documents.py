"""Small files of every kind, as real programs begin and end them."""

import io
import zipfile

from tests.support.frontend import FILM, VOICE

PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n%%EOF\n"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1024)
TEXT = "Light travels 300,000 km in a second. 光速是每秒三十万公里。\n".encode()
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def archive(*names: str, content: bytes = b"<xml/>") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.writestr(name, content)
    return out.getvalue()


def office(folder: str, content: bytes = b"<xml/>") -> bytes:
    return archive("[Content_Types].xml", "_rels/.rels", f"{folder}/document.xml", content=content)


CONTENTS: dict[str, bytes] = {
    "pdf": PDF,
    "doc": OLE,
    "xls": OLE,
    "docx": office("word"),
    "xlsx": office("xl"),
    "pptx": office("ppt"),
    "txt": TEXT,
    "png": PNG,
    "jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(32),
    "jpeg": b"\xff\xd8\xff\xe1\x00\x10Exif" + bytes(32),
    "gif": b"GIF89a" + bytes(32),
    "webp": b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(32),
    "wav": VOICE,
    "mp3": b"ID3\x04" + bytes(64),
    "m4a": b"\x00\x00\x00\x20ftypM4A " + bytes(64),
    "mp4": FILM,
}
