"""The base image of samples and relays, also where no registry can be reached."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from docker.errors import APIError

from .engine import Engine, reason
from .errors import ImageMissing


def ensure_base_image(engine: Engine, name: str) -> None:
    """Make `name` (repository:tag) available on the engine.

    It is pulled; when no registry answers, a busybox image is made from this machine's static busybox instead.

    Raises:
        ImageMissing: neither works.
    """
    if engine.image_exists(name):
        return
    repository, _, tag = name.partition(":")
    with engine.api() as api:
        try:
            api.pull(repository, tag or "latest")
        except APIError as error:
            binary = _static_busybox() if repository == "busybox" else None
            if binary is None:
                raise ImageMissing(
                    f"Image {name} can't be pulled ({reason(error)}); `docker load` it, or for busybox install "
                    "busybox-static, which it is then made from"
                ) from error
            api.import_image_from_data(_root_of(binary), repository, tag or "latest", changes=['CMD ["sh"]'])
    # A pull that breaks off half-way says so only in its progress.
    engine.image_info(name)


def _static_busybox() -> Path | None:
    found = shutil.which("busybox")
    if found is None:
        return None
    linked = subprocess.run(["ldd", found], capture_output=True, check=False).returncode == 0
    return None if linked else Path(found)


def _root_of(busybox: Path) -> bytes:
    """A tar with a root file system: busybox, a link for each of its programs, /tmp and a user table."""
    programs = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for program in set(programs) - {"busybox"}:
            link = tarfile.TarInfo(f"bin/{program}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(scratch)
        users = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        table = tarfile.TarInfo("etc/passwd")
        table.size = len(users)
        tar.addfile(table, io.BytesIO(users))
    return buffer.getvalue()
