# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of kernel modules, verified with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing

MODULE = b"\x7fELF and so on"


def openssl(*words: str) -> bytes:
    return subprocess.run(["openssl", *words], capture_output=True, check=True).stdout


@pytest.fixture(scope="module", params=["4cfe", "ff01", "00ab", "7f" * 20])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A key, its certificate, and the certificate's serial number."""
    folder = tmp_path_factory.mktemp("key")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ("-subj", "/CN=podnet test", "-days", "2", "-set_serial", f"0x{request.param}")
    new = (
        "req",
        "-new",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    )
    openssl(*new, *subject)
    return key, certificate, request.param


def test_serial_is_that_of_the_certificate(pair: tuple[Path, Path, str]) -> None:
    dummy, certificate, number = pair
    assert signing.serial(certificate.read_bytes()) == signing.normal(number)
    der = openssl("x509", "-in", str(certificate), "-outform", "DER")
    assert signing.serial(der) == signing.normal(number)
    assert signing.signed_by({"sig_key": "0A:BC"}) == "ABC" and signing.signed_by({}) == ""


def test_a_signature_verifies_and_is_replaced_by_the_next(
    pair: tuple[Path, Path, str], tmp_path: Path
) -> None:
    key, certificate, dummy = pair
    signed = signing.sign(MODULE, str(key), str(certificate))
    assert signed.startswith(MODULE) and signed.endswith(signing.MAGIC)
    assert signing.bare(signed) == signing.bare(MODULE) == MODULE
    assert signing.sign(signed, str(key), str(certificate)) == signed
    trailer = len(signing.MAGIC) + 12
    (tmp_path / "signature").write_bytes(signed[len(MODULE) : -trailer])
    for content, works in ((MODULE, True), (MODULE + b"x", False)):
        (tmp_path / "content").write_bytes(content)
        verify = ("cms", "-verify", "-binary", "-inform", "DER", "-in", str(tmp_path / "signature"))
        files = ("-content", str(tmp_path / "content"), "-certfile", str(certificate), "-noverify")
        done = subprocess.run(["openssl", *verify, *files], capture_output=True, check=False)
        assert (done.returncode == 0) == works, done.stderr


def test_unusable_key_or_certificate_is_reported(pair: tuple[Path, Path, str], tmp_path: Path) -> None:
    key, certificate, dummy = pair
    with pytest.raises(signing.SigningError, match="neither PEM nor DER"):
        signing.sign(MODULE, str(key), str(key))
    other = tmp_path / "other.pem"
    openssl("genrsa", "-out", str(other), "2048")
    with pytest.raises(signing.SigningError, match="openssl cannot sign"):
        signing.sign(MODULE, str(other), str(certificate))
