"""Bundles on disk: an OCI image layout as a directory, or the same in one tar.

The only module of the contract that touches the disk. Reading trusts nothing: links, odd
names, wrong sizes and wrong digests are refused. Writing is all or nothing: a directory appears
under its name only when every byte of it is durable.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edge_contract.codec import DOCUMENT_LIMIT_BYTES, encode_json
from edge_contract.digest import check_digest, digest_of, digest_of_chunks, hex_of
from edge_contract.errors import ContractError, ExitCode, TrustError
from edge_contract.manifest import (
    MANIFEST_MEDIA_TYPE,
    ConfigDetail,
    Descriptor,
    Manifest,
    build_manifest,
    decode_manifest,
    describe,
)

_CHUNK_BYTES = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def fsync_dir(path: Path) -> None:
    """Make the directory's entries durable; a rename is not before this.

    Some file systems (of sticks, of the network) have no such thing and say EINVAL: there is
    nothing better to do on them.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path`` so that a power cut leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Never through a link that somebody laid there, on a stick for one.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


class BundleDir:
    """A bundle in an OCI layout directory, opened for reading.

    Args:
        path: the directory that holds ``oci-layout``, ``index.json`` and ``blobs/``.

    Raises:
        ContractError: not such a directory, more or less than one manifest in it, or a
            malformed manifest.
        TrustError: the manifest's bytes do not match the digest in the index.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = _read_small(path / "index.json", what=f"{path} as a bundle")
        try:
            manifests = json.loads(index)["manifests"]
            (entry,) = manifests
            digest = check_digest(str(entry["digest"]), where=f"{path}/index.json")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ContractError(
                f"{path}/index.json: expected an OCI index with exactly one manifest: {error}",
                hint="a bundle is the directory `bundle/` that `edge-compile build` writes",
            ) from error
        self.digest = digest
        self.manifest_bytes = self.read_blob(digest, DOCUMENT_LIMIT_BYTES)
        self.manifest: Manifest = decode_manifest(self.manifest_bytes, where=str(path))

    def blob_path(self, digest: str) -> Path:
        """Where the blob lies; refuses links on the way to it."""
        where = self.path / "blobs" / "sha256" / hex_of(check_digest(digest, where=str(self.path)))
        for step in (self.path / "blobs", where.parent, where):
            if step.is_symlink():
                raise ContractError(f"{step} is a symbolic link; a bundle holds plain files only")
        _refuse_pipe(where)
        return where

    def read_blob(self, digest: str, limit_bytes: int) -> bytes:
        """The blob's bytes, checked.

        Raises:
            ContractError: missing, or longer than ``limit_bytes``.
            TrustError: its digest differs.
        """
        path = self.blob_path(digest)
        data = _read_small(path, what=f"blob {digest}", limit_bytes=limit_bytes)
        actual = digest_of(data)
        if actual != digest:
            raise _differs(path, digest, actual)
        return data

    def read_file(self, name: str, limit_bytes: int = 256 << 20) -> bytes:
        """The bytes of the file ``name`` of the bundle, checked against the manifest."""
        layer = self.manifest.layer(name)
        data = self.read_blob(layer.digest, min(limit_bytes, layer.size))
        if len(data) != layer.size:
            raise TrustError(f"{name}: expected {layer.size} bytes, got {len(data)}")
        return data

    def verify(self) -> None:
        """Check every blob against its digest and size, streaming.

        Raises:
            ContractError: a blob is missing.
            TrustError: a blob's size or digest differs.
        """
        for descriptor in (self.manifest.config, *self.manifest.layers):
            path = self.blob_path(descriptor.digest)
            try:
                size = path.stat().st_size
            except FileNotFoundError as error:
                raise ContractError(
                    f"{path}: missing blob of {descriptor.path or 'config'}",
                    exit_code=ExitCode.NOT_FOUND,
                ) from error
            if size != descriptor.size:
                raise TrustError(
                    f"{path}: expected {descriptor.size} bytes for"
                    f" {descriptor.path or 'config'}, got {size}"
                )
            actual = digest_of_chunks(_chunks(path))
            if actual != descriptor.digest:
                raise _differs(path, descriptor.digest, actual)

    def descriptors(self) -> list[Descriptor]:
        """Every blob of the bundle, the manifest itself first."""
        own = describe(self.manifest_bytes, MANIFEST_MEDIA_TYPE)
        return [own, self.manifest.config, *self.manifest.layers]


def write_bundle(
    target: Path,
    *,
    name: str,
    version: str,
    files: Mapping[str, tuple[str, bytes]],
    detail: ConfigDetail,
) -> str:
    """Write a bundle directory and return its digest.

    Args:
        target: must not exist yet; it appears only once it is complete and durable.
        name: the model line.
        version: its semantic version.
        files: path inside the bundle -> (layer media type, bytes).
        detail: technical facts for the ModelPack config.

    Raises:
        ContractError: ``target`` exists, or a path is refused.
        OSError: no space or no permission; nothing is left behind.
    """
    if target.exists():
        raise ContractError(f"{target} exists already", hint=f"remove it first: rm -r {target}")
    layers = [describe(data, media, path) for path, (media, data) in files.items()]
    manifest, config = build_manifest(name, version, layers, detail)
    blobs = [manifest, config, *(data for _, data in files.values())]
    with staged_directory(target) as staging:
        blob_dir = staging / "blobs" / "sha256"
        blob_dir.mkdir(parents=True)
        for blob in blobs:
            write_durably(blob_dir / hex_of(digest_of(blob)), blob)
        write_durably(staging / "oci-layout", _LAYOUT)
        write_durably(staging / "index.json", index_for(manifest, version))
    return digest_of(manifest)


def index_for(manifest: bytes, version: str) -> bytes:
    """The ``index.json`` of a layout that holds just this manifest."""
    entry = {
        "mediaType": MANIFEST_MEDIA_TYPE,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": version},
    }
    return encode_json({"schemaVersion": 2, "manifests": [entry]})


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A scratch directory beside ``target`` that becomes ``target`` when the block ends well.

    On any exception the scratch directory is removed and ``target`` never appears.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with contextlib.suppress(PermissionError):  # a stick's files may all belong to root
            staging.chmod(0o755)
        yield staging
        for directory in (staging, *(p for p in staging.rglob("*") if p.is_dir())):
            fsync_dir(directory)
        staging.rename(target)
        fsync_dir(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def pack_tar(bundle: BundleDir, target: Path) -> None:
    """Write the layout as one tar with no times, owners or modes of this machine in it."""
    import tarfile  # only here and below: what an agent holds in memory has no tar in it

    temporary = target.with_name(f".{target.name}.part")
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            names = sorted(p for p in bundle.path.rglob("*") if p.is_file() and not p.is_symlink())
            for path in names:
                info = tarfile.TarInfo(path.relative_to(bundle.path).as_posix())
                info.size = path.stat().st_size
                info.mode = 0o644
                with path.open("rb") as file:
                    tar.addfile(info, file)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unpack_tar(source: Path, target: Path, *, limit_bytes: int = 4 << 30) -> None:
    """Unpack a bundle tar into ``target``, which must not exist.

    Raises:
        ContractError: not a tar, links or odd members in it, too large, or ``target`` exists.
    """
    import tarfile

    if target.exists():
        raise ContractError(f"{target} exists already", hint=f"remove it first: rm -r {target}")
    allowed = {"oci-layout", "index.json"}
    total_bytes = 0
    try:
        with tarfile.open(source, "r:") as tar, staged_directory(target) as staging:
            (staging / "blobs" / "sha256").mkdir(parents=True)
            for member in tar:
                if member.isdir():
                    continue
                head, _, name = member.name.rpartition("/")
                blob = head == "blobs/sha256" and len(name) == 64 and name.isalnum()
                total_bytes += member.size
                if not member.isreg() or not (blob or member.name in allowed):
                    raise ContractError(f"{source}: member {member.name[:120]!r} is refused")
                if total_bytes > limit_bytes:
                    raise ContractError(f"{source}: more than {limit_bytes} bytes unpacked")
                content = tar.extractfile(member)
                if content is None:
                    raise ContractError(f"{source}: member {member.name[:120]!r} has no content")
                with (staging / member.name).open("wb") as file:
                    shutil.copyfileobj(content, file, _CHUNK_BYTES)
                    file.flush()
                    os.fsync(file.fileno())
    except tarfile.TarError as error:
        raise ContractError(f"{source}: not a readable tar of a bundle: {error}") from error


def _refuse_pipe(path: Path) -> None:
    """Whoever opened a pipe would wait for somebody to write to it."""
    if path.exists() and not path.is_file():
        raise ContractError(f"{path} is no plain file; a bundle holds plain files only")


def _read_small(path: Path, *, what: str, limit_bytes: int = DOCUMENT_LIMIT_BYTES) -> bytes:
    try:
        _refuse_pipe(path)
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ContractError(
            f"{what}: no file {path}",
            hint="a bundle is the directory `bundle/` that `edge-compile build` writes",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    except OSError as error:
        raise ContractError(f"{what}: cannot read {path}: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise ContractError(f"{what}: {path} is longer than {limit_bytes} bytes")
    return data


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _differs(path: Path, expected: str, actual: str) -> TrustError:
    return TrustError(
        f"{path}: digest differs: expected {expected}, got {actual}",
        hint="the bundle was damaged or tampered with; copy or build it again",
    )
