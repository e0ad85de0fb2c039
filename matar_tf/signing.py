"""Signatures of artifacts: who made one, beside what is in it.

Detached signatures in the format of OpenSSF's model signing, by the package
``model-signing`` (extra ``sign``): its own program checks what is signed here, and the
other way round. Keys are elliptic curves in PEM files; in the place of a public key,
certificates may be trusted.

Reference:
  OpenSSF Model Signing specification, version 1.0, 2025.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from matar_tf.errors import ArtifactError
from matar_tf.io.files import as_path, read_at_most, write_atomically

__all__ = ["check_key", "check_signature", "sign_artifact", "signature_path"]

_IN_FOLDER: Final = "model.sig"
_MAX_BYTES: Final = 1 << 20  # of a signature, a key, or certificates
_PEM: Final = re.compile(
    rb"-----BEGIN ([A-Z ]{1,40})-----\n([A-Za-z0-9+/=\s]*)\n-----END \1-----"
)
_CERTIFICATE: Final = b"CERTIFICATE"
_MISMATCH: Final = "Signature mismatch"
_PUBLIC_KEY: Final = b"PUBLIC KEY"


def signature_path(path: str | Path) -> Path:
    """Returns where the signature of an artifact is, if it has one.

    Beside a file, ``.sig`` added to its name; in a folder, as ``model.sig``.
    """
    path = Path(path)
    return path / _IN_FOLDER if path.is_dir() else path.with_name(f"{path.name}.sig")


def sign_artifact(
    path: str | Path,
    key: str | Path,
    *,
    certificates: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Signs an artifact.

    Args:
      path: A directory or a ``.matar`` file.
      key: PEM file of a private key of an elliptic curve, without a password.
      certificates: PEM file of the signer's certificate and then of those that certify
        it; None to sign with the bare key.
      overwrite: Whether to replace a signature that is there.

    Returns:
      The path of the signature.

    Raises:
      ArtifactError: If nothing is at the path, a signature is there and `overwrite` is
        False, a key or certificate is none, or ``model-signing`` is not installed.
    """
    path = _existing(path)
    target = signature_path(path)
    if target.exists() and not overwrite:
        raise ArtifactError(
            f"Expected no signature at {target}, but there is one; pass overwrite=True "
            "to replace it."
        )
    key = _existing(key)
    chain = None if certificates is None else _certificates(_existing(certificates))
    hashing = _package("hashing").Config()
    hashing.set_ignored_paths(paths=[_IN_FOLDER] if path.is_dir() else [])
    config = _package("signing").Config().set_hashing_config(hashing)
    with (
        tempfile.TemporaryDirectory() as name,
        _explained(f"sign {path.name} by {key}"),
    ):
        folder = Path(name)
        if chain is None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            first, *rest = _written(chain, folder)
            config.use_certificate_signer(
                private_key=key, signing_certificate=first, certificate_chain=rest
            )
        config.sign(path, folder / _IN_FOLDER)
        content = (folder / _IN_FOLDER).read_bytes()
    write_atomically(target, content)
    return target


def check_key(key: str | Path, *, certificates: str | Path | None = None) -> None:
    """Checks that an artifact can be signed, by signing a file that goes away.

    Args:
      key: As for `sign_artifact`.
      certificates: As for `sign_artifact`.

    Raises:
      ArtifactError: If a key or certificate is none, or ``model-signing`` is not
        installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        path.touch()
        sign_artifact(path, key, certificates=certificates)


def check_signature(path: str | Path, trust: str | Path) -> str:
    """Checks that an artifact is signed by one whom the user trusts.

    Args:
      path: A directory or a ``.matar`` file.
      trust: PEM file of the signer's public key, or of certificates, by one of which
        the signer's must be certified.

    Returns:
      Who that is: ``key sha256:...`` or ``certificate sha256:...``, the SHA-256 of the
      key, or of the first of the certificates, in DER form.

    Raises:
      ArtifactError: If nothing is at the path, it has no signature, or one of another
        artifact or by someone else, the file at `trust` holds no key, or
        ``model-signing`` is not installed.
    """
    path, trust = _existing(path), _existing(trust)
    signature = signature_path(path)
    if not signature.is_file():
        raise ArtifactError(
            f"Expected a signature of {path} at {signature}, found none; fetch it from "
            "whom the artifact comes from, or do not ask for trust."
        )
    read_at_most(signature, _MAX_BYTES, ArtifactError)
    ((label, body), *_) = _pem(trust)
    config = _package("verifying").Config()
    with _explained(f"find {path} signed by {trust}, as {signature} is to show"):
        if label == _CERTIFICATE:
            config.use_certificate_verifier(certificate_chain=[trust])
        else:
            config.use_elliptic_key_verifier(public_key=trust)
        config.verify(path, signature)
    digest = hashlib.sha256(base64.b64decode(body)).hexdigest()
    return f"{'certificate' if label == _CERTIFICATE else 'key'} sha256:{digest}"


def _existing(path: str | Path) -> Path:
    path = as_path(path, "a file", ArtifactError)
    if not path.exists():
        raise ArtifactError(
            f"Expected a file at {path}, found nothing; check the path."
        )
    return path


def _package(module: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as error:
        raise ArtifactError(
            f"Expected the package model-signing for signatures, but: {error}; install "
            "it with pip install 'matar_tf[sign]'."
        ) from error


def _pem(path: Path) -> list[tuple[bytes, bytes]]:
    """Returns label and base64 of what a PEM file of public things holds.

    Raises:
      ArtifactError: If it holds none, or something else.
    """
    content = read_at_most(path, _MAX_BYTES, ArtifactError)
    found = _PEM.findall(content.replace(b"\r\n", b"\n"))
    if not found or {label for label, _ in found} - {_CERTIFICATE, _PUBLIC_KEY}:
        raise ArtifactError(
            f"Expected a public key or certificates in PEM form in {path}, got "
            "something else; name the signer's public key."
        )
    return found


def _certificates(path: Path) -> list[bytes]:
    """Returns certificates, each as a PEM file of its own."""
    return [
        b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label, body, label)
        for label, body in _pem(path)
    ]


def _written(contents: list[bytes], folder: Path) -> list[Path]:
    paths = [folder / f"{number}.pem" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns what goes wrong with keys and signatures into one sentence."""
    try:
        # The package prints what it warns of.
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:
        # Files of strangers end in errors of many packages: of keys, JSON, protobuf.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if reason.startswith(_MISMATCH):  # raw bytes of digests follow
            reason = f"{_MISMATCH.lower()}, what is there is not what was signed"
        raise ArtifactError(
            f"Expected to {what}, but: {reason.rstrip('.')}; check that key, signature "
            "and artifact belong together."
        ) from error
