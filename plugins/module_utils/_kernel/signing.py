# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of kernel modules: the certificate's number, and a signature made by openssl(1).

Private to this collection.
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

MAGIC = b"~Module signature appended~\n"
_PKCS7 = 2
_TRAILER = struct.Struct(">BBBBB3xI")  # struct module_signature


class SigningError(Exception):
    """What is wrong with a key or certificate, and the remedy."""


def der(certificate: bytes) -> bytes:
    """Return a certificate, given as PEM or DER, as DER."""
    found = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END", certificate, re.DOTALL)
    try:
        return base64.b64decode(found[1]) if found else certificate
    except binascii.Error as error:
        raise SigningError(f"the certificate is no PEM ({error})") from error


def _element(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Return the content of the first DER element and what follows it."""
    if len(data) < 2 or data[0] != tag:
        raise SigningError("the certificate is neither PEM nor DER (X.509)")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return data[start : start + length], data[start + length :]


def serial(certificate: bytes) -> str:
    """Return a certificate's serial number, as ``normal`` writes it: what modinfo(8) shows as sig_key."""
    body, dummy = _element(_element(der(certificate), 0x30)[0], 0x30)
    if body[:1] == b"\xa0":  # the version
        body = _element(body, 0xA0)[1]
    return normal(_element(body, 0x02)[0].hex())


def normal(number: str) -> str:
    """Return a hexadecimal number without colons and leading zeros."""
    return number.replace(":", "").upper().lstrip("0")


def signed_by(fields: Mapping[str, str]) -> str:
    """Return the number of the certificate that a module is signed for, from modinfo's fields."""
    return normal(fields.get("sig_key", ""))


def bare(module: bytes) -> bytes:
    """Return a module without the signature that may be appended to it."""
    if not module.endswith(MAGIC):
        return module
    trailer = len(module) - len(MAGIC) - _TRAILER.size
    return module[: trailer - _TRAILER.unpack_from(module, trailer)[-1]]


def sign(module: bytes, key: str, certificate: str) -> bytes:
    """Return a module signed as the kernel's sign-file does; both paths are this machine's."""
    module = bare(module)
    with open(certificate, "rb") as file:
        given = file.read()
    serial(given)  # openssl's words for what is no certificate help nobody
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
            raise SigningError("there is no openssl on the controller: install it") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SigningError(f"openssl cannot sign with {key}: {said[0] if said else 'it said nothing'}")
    trailer = _TRAILER.pack(0, 0, _PKCS7, 0, 0, len(done.stdout))
    return module + done.stdout + trailer + MAGIC
