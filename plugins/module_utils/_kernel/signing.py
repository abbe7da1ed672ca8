# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sign kernel modules with openssl(1), and read serial numbers of certificates.

Source: Documentation/admin-guide/module-signing.rst, scripts/sign-file.c, linux/module_signature.h, X.690.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Mapping

from .._core.plan import Problem

MAGIC = b"~Module signature appended~\n"
_PKCS7 = 2
_TRAILER = struct.Struct(">BBBBB3xI")  # struct module_signature


class SigningError(Problem):
    """An invalid key or certificate, or a failed signature."""


def der(certificate: bytes) -> bytes:
    """Return a PEM or DER certificate as DER. Raises SigningError if its PEM is invalid."""
    found = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", certificate, re.DOTALL)
    try:
        return base64.b64decode(found[1]) if found else certificate
    except binascii.Error as error:
        raise SigningError(f"the certificate is not valid PEM ({error})") from error


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the first DER element and the bytes after it."""
    if len(data) < 2 or data[0] != tag:
        raise SigningError("the certificate is neither PEM nor DER (X.509)")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return data[start : start + length], data[start + length :]


def serial(certificate: bytes) -> str:
    """Return a certificate's serial number in the format of ``normal``; modinfo(8) shows it as sig_key."""
    body, dummy = _element(_element(der(certificate), 0x30)[0], 0x30)
    if body[:1] == b"\xa0":  # the version
        body = _element(body, 0xA0)[1]
    return normal(_element(body, 0x02)[0].hex())


def normal(number: str) -> str:
    """Return a hexadecimal number without colons and leading zeros."""
    return number.replace(":", "").upper().lstrip("0")


def signed_by(fields: Mapping[str, str]) -> str:
    """Return the serial number of the certificate that signed a module, from the fields of modinfo(8)."""
    return normal(fields.get("sig_key", ""))


def bare(module: bytes) -> bytes:
    """Return a module without its appended signature, if it has one."""
    if not module.endswith(MAGIC):
        return module
    trailer = len(module) - len(MAGIC) - _TRAILER.size
    return module[: trailer - _TRAILER.unpack_from(module, trailer)[-1]]


def sign(module: bytes, key: str, certificate: str) -> bytes:
    """Return a signed module, as scripts/sign-file does. ``key`` and ``certificate`` are local paths.

    Raises SigningError.
    """
    module = bare(module)
    with open(certificate, "rb") as file:
        given = file.read()
    serial(given)  # raises a clearer error than openssl
    with tempfile.TemporaryDirectory() as folder:
        pem = os.path.join(folder, "certificate.pem")
        with open(pem, "wb") as converted:
            text = base64.encodebytes(der(given))
            converted.write(b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n")
        command = [
            "openssl",
            "cms",
            "-sign",
            "-binary",
            "-noattr",
            "-nocerts",
            "-nosmimecap",
            "-md",
            "sha256",
        ]
        try:
            done = subprocess.run(
                [*command, "-outform", "DER", "-signer", pem, "-inkey", key],
                input=module,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise SigningError("openssl is not installed on the controller; install it") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise SigningError(
            f"openssl cannot sign with {key}: {lines[0] if lines else f'exit status {done.returncode}'};"
            " check that key and certificate belong together"
        )
    trailer = _TRAILER.pack(0, 0, _PKCS7, 0, 0, len(done.stdout))
    return module + done.stdout + trailer + MAGIC
