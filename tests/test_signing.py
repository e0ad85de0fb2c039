"""Signed artifacts: by Python and by programs, and by model-signing's own."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from fixtures.paths import ROOT
from fixtures.programs import call, fails

import matar_tf as mt
from matar_tf.errors import ArtifactError
from matar_tf.signing import check_key, check_signature, sign_artifact, signature_path
from matar_tf.tflite.metadata import read_metadata

NET = ROOT / "tests" / "data" / "dense.matar"
OTHER = ROOT / "tests" / "data" / "six_convs.matar"
PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def private_pem(key: Any) -> bytes:
    return key.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_keys(folder: Path, name: str, key: Any = None) -> tuple[Path, Path]:
    """Writes a pair of keys; returns the paths of the private and the public one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    paths = folder / f"{name}.key", folder / f"{name}.pub"
    paths[0].write_bytes(private_pem(key))
    paths[1].write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    return paths


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys of two people, and artifacts that the first signed."""
    folder = tmp_path_factory.mktemp("signed")
    for name in ("maker", "other"):
        write_keys(folder, name)
    artifact = mt.load_artifact(NET)
    for name in ("net.matar", "net"):
        mt.write_artifact(artifact, folder / name)
        sign_artifact(folder / name, folder / "maker.key")
    return folder


@pytest.fixture
def mine(home: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be changed."""
    return Path(shutil.copytree(home, tmp_path / "mine"))


@pytest.mark.parametrize("name", ["net.matar", "net"])
class TestTrust:
    def test_who_signed_it_is_told_by_the_digest_of_the_key(
        self, name: str, home: Path
    ) -> None:
        key = serialization.load_pem_public_key((home / "maker.pub").read_bytes())
        digest = hashlib.sha256(key.public_bytes(DER, PUBLIC)).hexdigest()
        net = mt.load_artifact(home / name, trust=home / "maker.pub")
        assert net.source is not None
        assert net.source.signed_by == f"key sha256:{digest}"

    def test_without_trust_nothing_is_said(self, name: str, home: Path) -> None:
        net = mt.load_artifact(home / name)
        assert net.source is not None
        assert net.source.signed_by == ""

    def test_files_say_who_signed_what_they_come_from(
        self, name: str, home: Path, tmp_path: Path
    ) -> None:
        for trust, there in ((home / "maker.pub", True), (None, False)):
            net = mt.load_artifact(home / name, trust=trust)
            path = tmp_path / f"{there}.tflite"
            mt.export(net, "w4a4", path)
            metadata = read_metadata(path.read_bytes())
            assert ("signed_by" in metadata) is there
            if there:
                assert net.source is not None
                assert metadata["signed_by"] == net.source.signed_by
            assert call("verify", str(home / name), str(path)) == 0

    def test_another_key_is_refused(self, name: str, home: Path) -> None:
        with pytest.raises(ArtifactError, match=r"Expected to find .* signed by"):
            mt.load_artifact(home / name, trust=home / "other.pub")

    def test_a_missing_signature_is_refused(self, name: str, mine: Path) -> None:
        signature_path(mine / name).unlink()
        with pytest.raises(ArtifactError, match="found none"):
            mt.load_artifact(mine / name, trust=mine / "maker.pub")
        mt.load_artifact(mine / name)

    def test_a_changed_artifact_is_refused(self, name: str, mine: Path) -> None:
        artifact = mt.load_artifact(OTHER)
        mt.write_artifact(artifact, mine / f"new_{name}")
        signature = signature_path(mine / name)
        shutil.copy(signature, signature_path(mine / f"new_{name}"))
        with pytest.raises(ArtifactError, match="mismatch, what is there is not what"):
            mt.load_artifact(mine / f"new_{name}", trust=mine / "maker.pub")

    def test_each_changed_byte_of_a_signature_is_noticed_or_means_nothing(
        self, name: str, mine: Path
    ) -> None:
        signature = signature_path(mine / name)
        content = signature.read_bytes()
        for place in range(0, len(content), max(len(content) // 40, 1)):
            changed = bytearray(content)
            changed[place] ^= 1
            signature.write_bytes(changed)
            try:
                signed_by = check_signature(mine / name, mine / "maker.pub")
            except ArtifactError:
                continue
            assert signed_by.startswith("key sha256:")

    def test_the_format_is_that_of_the_specification(
        self, name: str, mine: Path
    ) -> None:
        path, signature = mine / name, signature_path(mine / name)

        def run(what: str, key: list[Path | str]) -> None:
            words = [what, "key", path, "--signature", signature, *key]
            subprocess.run([sys.executable, "-m", "model_signing", *words], check=True)

        run("verify", ["--public_key", mine / "maker.pub"])
        signature.unlink()
        run("sign", ["--private_key", mine / "maker.key"])
        assert check_signature(path, mine / "maker.pub").startswith("key sha256:")


class TestSigning:
    def test_a_signature_stays_unless_told_otherwise(self, mine: Path) -> None:
        with pytest.raises(ArtifactError, match="Expected no signature"):
            sign_artifact(mine / "net.matar", mine / "other.key")
        check_signature(mine / "net.matar", mine / "maker.pub")
        sign_artifact(mine / "net.matar", mine / "other.key", overwrite=True)
        check_signature(mine / "net.matar", mine / "other.pub")

    def test_keys_that_are_none_are_refused_and_nothing_is_written(
        self, mine: Path
    ) -> None:
        rsa_key, _ = write_keys(mine, "rsa", rsa.generate_private_key(65537, 2048))
        (mine / "text.key").write_text("no key")
        for key in (mine / "maker.pub", rsa_key, mine / "text.key", mine / "none.key"):
            mt.write_artifact(mt.load_artifact(NET), mine / "new.matar")
            with pytest.raises(ArtifactError, match=r"^Expected .*; check"):
                sign_artifact(mine / "new.matar", key)
            assert not signature_path(mine / "new.matar").exists()
            (mine / "new.matar").unlink()
            with pytest.raises(ArtifactError, match=r"^Expected .*; check"):
                check_key(key)
        check_key(mine / "maker.key")

    def test_a_wrong_key_is_found_before_anything_is_written(
        self, mine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (mine / "model.h5").write_text("not read")
        given = {"output": str(mine / "new.matar"), "sign": str(mine / "maker.pub")}
        error = fails(capsys, "package", str(mine / "model.h5"), **given)
        assert "to sign artifact by" in error
        assert not (mine / "new.matar").exists()

    @pytest.mark.parametrize("name", ["maker.key", "text", "nothing"])
    def test_trust_in_something_else_than_a_public_key_is_refused(
        self, name: str, mine: Path
    ) -> None:
        (mine / "text").write_text("-----BEGIN PUBLIC KEY-----")
        with pytest.raises(ArtifactError, match=r"^Expected a "):
            check_signature(mine / "net.matar", mine / name)

    def test_a_device_is_no_key(self, mine: Path) -> None:
        (mine / "zero.pub").symlink_to("/dev/zero")
        with pytest.raises(ArtifactError, match="Expected a "):
            check_signature(mine / "net.matar", mine / "zero.pub")


def certified(folder: Path) -> None:
    """Writes a root's certificate, a signer's key, and the latter's chain."""
    now = datetime.datetime.now(datetime.timezone.utc)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "maker")}
    made: dict[str, bytes] = {}
    for name, key in keys.items():
        is_root = name == "root"
        usage = x509.KeyUsage(
            *(not is_root, False, False, False, False, is_root, is_root, False, False)
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    keys["root"].public_key()
                ),
                critical=False,
            )
            .sign(keys["root"], hashes.SHA256())
        )
        made[name] = certificate.public_bytes(PEM)
    (folder / "root.pem").write_bytes(made["root"])
    (folder / "chain.pem").write_bytes(made["maker"] + made["root"])
    (folder / "certified.key").write_bytes(private_pem(keys["maker"]))


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def test_a_signer_who_is_certified(mine: Path) -> None:
    (mine / "elsewhere").mkdir()
    for folder in (mine, mine / "elsewhere"):
        certified(folder)
    path = mine / "net.matar"
    signature_path(path).unlink()
    sign_artifact(path, mine / "certified.key", certificates=mine / "chain.pem")
    root = x509.load_pem_x509_certificate((mine / "root.pem").read_bytes())
    digest = hashlib.sha256(root.public_bytes(DER)).hexdigest()
    signed_by = check_signature(path, mine / "root.pem")
    assert signed_by == f"certificate sha256:{digest}"
    with pytest.raises(ArtifactError, match="signed by"):
        check_signature(path, mine / "elsewhere" / "root.pem")


class TestPrograms:
    def test_verify_says_whether_it_is_signed(
        self, mine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, key = mine / "net.matar", mine / "maker.pub"
        assert call("verify", str(path), trust=str(key)) == 0
        assert "signature        by key sha256:" in capsys.readouterr().out
        assert call("verify", str(path)) == 0
        assert "there, not checked" in capsys.readouterr().out
        signature_path(path).unlink()
        assert call("verify", str(path)) == 0
        assert "signature        none" in capsys.readouterr().out

    def test_a_file_tells_who_signed_its_artifact(
        self, mine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, net = str(mine / "x.tflite"), mine / "net.matar"
        given = {"policy": "w4a4", "output": file, "trust": str(mine / "maker.pub")}
        assert call("export", str(net), **given) == 0
        for command, words in (("verify", "signed by   "), ("inspect", "signed_by: ")):
            capsys.readouterr()
            assert call(command, file) == 0
            assert words in (printed := capsys.readouterr().out)
            assert "key sha256:" in printed
        assert call("inspect", str(net)) == 0
        assert "--trust=KEY" in capsys.readouterr().out

    def test_trust_is_asked_of_artifacts_alone(
        self, mine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = fails(capsys, "verify", "x.tflite", trust=str(mine / "maker.pub"))
        assert "Expected an artifact beside --trust" in error

    @pytest.mark.parametrize("command", ["export", "cost", "search"])
    def test_commands_refuse_another_signer(
        self, command: str, mine: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = {
            "export": {"policy": "w4a4", "output": str(mine / "x.tflite")},
            "cost": {"targets": "mpic"},
            "search": {
                "targets": "mpic",
                "data": "digits",
                "output": str(mine / "run"),
            },
        }[command]
        given = {"artifact": str(mine / "net.matar"), **flags}
        error = fails(capsys, command, trust=str(mine / "other.pub"), **given)
        assert "signed by" in error
        assert not (mine / "x.tflite").exists()
        assert not (mine / "run").exists()
