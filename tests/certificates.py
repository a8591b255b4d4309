"""Throw-away certificates, made by the openssl of the machine."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Signed:
    certificate: Path
    key: Path


class Authority:
    """A CA in ``folder``."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.certificate, self._key = folder / f"{name}.crt", folder / f"{name}.key"
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext",
                 "basicConstraints=critical,CA:TRUE", "-keyout", self._key, "-out", self.certificate)  # fmt: skip

    def sign(self, name: str, address: str = "IP:127.0.0.1,DNS:localhost") -> Signed:
        request, made = self._folder / f"{name}.csr", Signed(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={address}\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
                 "-days", "2", "-extfile", extensions, "-out", made.certificate)  # fmt: skip
        return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
