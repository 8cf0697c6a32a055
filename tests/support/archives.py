"""Archives of all kinds, for tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path


def pack(path: Path, content: dict[str, bytes]) -> Path:
    """Write an archive of the kind that its name says, and return its path. Members of ``stored.zip`` are plain."""
    if path.name.endswith("zip"):
        kind = zipfile.ZIP_STORED if "stored" in path.name else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, data in content.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def zip_with_offset(offset: int) -> bytes:
    """Return a zip file of ``0.jpg`` and ``1.jpg`` whose directory says that ``0.jpg`` begins at ``offset``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(2):
            archive.writestr(f"{number}.jpg", str(number))
        first = archive.infolist()[0]
        first.header_offset = offset
    return file.getvalue()
