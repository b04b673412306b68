# SPDX-License-Identifier: Apache-2.0
"""From what a person typed, or an image's first bytes, to a stack of images.

A new storage is a line in `_open_storage` and `create`; a new format is a line in `FORMATS`.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack

from diskcopy.errors import Corrupt, Error, Refused, Unsupported, UsageError, WrongFormat, system_failure
from diskcopy.formats import known
from diskcopy.formats.measured import Measure
from diskcopy.formats.raw import Raw
from diskcopy.image import Image, Lineage, shares_storage
from diskcopy.storage.file import File, NewFile, file_identity
from diskcopy.storage.ssh.options import SshOptions

FORMATS = ("raw", "qcow2")

# qemu's own choice: an L2 table then maps 512 MiB.
DEFAULT_CLUSTER = 64 << 10

# qemu has no limit, but opens one image for each link; real chains have a handful.
_DEEPEST_CHAIN = 100
# What format detection looks at: every magic lies in the first sector.
_PROBE = 512
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open(
    location: str,
    format: str | None = None,
    *,
    untrusted: bool = False,
    force_share: bool = False,
    ssh: SshOptions = SshOptions(),
) -> Image:
    """The disk at a location: a path, ssh://host/path, or "-" for standard input.

    format: "raw" or "qcow2"; found out from the first bytes by default
    untrusted: follow no reference that an image makes to other files
    force_share: read images that another process has open for writing as well
    ssh: how hosts are reached
    """
    check_format(format)
    opener = _Opener(untrusted=untrusted, force_share=force_share, ssh=ssh)
    return opener.open(location, format, chain=())


def create(
    location: str,
    format: str,
    size: int | None,
    *,
    source: Image,
    compress: str | None = None,
    cluster_size: int | None = None,
    preallocate: str = "off",
    durable: bool = True,
    ssh: SshOptions = SshOptions(),
) -> Image:
    """A new disk of `size` bytes at a location, to be written and committed.

    Raises Refused where `source` lives on what would be written, or the location is a
    device that is too small or in use.
    """
    check_format(format)
    check_options(location, format, compress=compress, cluster_size=cluster_size, preallocate=preallocate)
    with ExitStack() as undo:
        storage = undo.enter_context(
            _create_storage(
                location,
                size if format == "raw" else None,
                source.identity(),
                preallocate=format == "raw" and preallocate == "full",
                durable=durable,
                ssh=ssh,
            )
        )
        image: Image = Raw(storage)
        if format == "qcow2":
            if "sequential" in storage.can:
                raise UsageError(location, "qcow2 cannot be written to a stream", remedy="name a file")
            from diskcopy.formats.qcow2.writer import Qcow2Writer

            image = Qcow2Writer(
                storage,
                size,
                cluster_size=DEFAULT_CLUSTER if cluster_size is None else cluster_size,
                compression=compress,
                preallocate=preallocate,
            )
        if "resize" not in storage.can and size is not None:
            needed = size
            if format == "qcow2":
                # How far data will be compressed is not known; then the device has to fill up first.
                needed = 0 if compress else measure(source, format, cluster_size, preallocate).required
            _refuse_too_small(storage, needed)
        undo.pop_all()
        return image


def measure(image: Image, format: str, cluster_size: int | None, preallocate: str) -> Measure:
    """What a copy of an image takes in a format, from its extents; nothing is read."""
    check_format(format)
    size = image.size
    if size is None:
        raise Unsupported(image.name, "is a stream, and cannot be measured", remedy="name a file")
    data = ((extent.start, extent.end) for extent in image.extents() if extent.data)
    if format == "raw":
        return Measure(size if preallocate == "full" else sum(end - start for start, end in data), size)
    from diskcopy.formats.qcow2.measure import measure as measure_qcow2

    if cluster_size is None:
        cluster_size = DEFAULT_CLUSTER
    return measure_qcow2(size, data, cluster_size=cluster_size, preallocate=preallocate)


def format_of(image: Image) -> str:
    """The format of an image from `open`, without asking the image: it may be closed, or damaged."""
    return "raw" if isinstance(image, Raw) else "qcow2"


def target_format(location: str) -> str:
    """The format that a target's name asks for: qcow2 for NAME.qcow2, raw otherwise.

    Raises UsageError for names of formats that diskcopy does not write.
    """
    ending = os.path.splitext(location)[1].lower()
    if ending == ".qcow2":
        return "qcow2"
    if ending in (".vmdk", ".vdi", ".vhd", ".vhdx", ".qed"):
        raise UsageError(
            location, f"diskcopy does not write {ending[1:]}", remedy="say -O raw or -O qcow2 to use the name"
        )
    return "raw"


def check_format(format: str | None) -> None:
    """Raise UsageError unless it is a format, or None."""
    if format is not None and format not in FORMATS:
        raise UsageError(format, "is not a format", remedy=f"there is {' and '.join(FORMATS)}")


def check_options(
    name: str, format: str, *, compress: str | None, cluster_size: int | None, preallocate: str
) -> None:
    """Raise UsageError for what a target's format does not have."""
    if preallocate not in ("off", "metadata", "full"):
        raise UsageError(name, f"{preallocate!r} is no preallocation", remedy="use off, metadata or full")
    if format != "raw":
        return
    for value, option in ((compress, "compression"), (cluster_size, "a cluster size")):
        if value is not None:
            raise UsageError(name, f"raw has no {option}", remedy="use -O qcow2")
    if preallocate == "metadata":
        raise UsageError(name, "raw has no metadata to preallocate", remedy="use full, or off")


class _Opener:
    """Opens locations and what their images refer to, under one set of rules."""

    def __init__(self, *, untrusted: bool, force_share: bool, ssh: SshOptions) -> None:
        self._untrusted = untrusted
        self._force_share = force_share
        self._ssh = ssh

    def open(self, location: str, format: str | None, chain: tuple[frozenset[Lineage], ...]) -> Image:
        """chain: the identities of the images whose references led here."""
        with ExitStack() as undo:
            storage = undo.enter_context(self._open_storage(location, referred=bool(chain)))
            identity = storage.identity()
            if identity and identity in chain:
                raise Corrupt(location, "is its own backing image: the chain never ends")
            if len(chain) > _DEEPEST_CHAIN:
                raise Corrupt(location, f"a chain of more than {_DEEPEST_CHAIN} images is not followed")
            image = self._open_format(storage, location, format, (*chain, identity))
            undo.pop_all()
            return image

    def _open_storage(self, location: str, *, referred: bool) -> Image:
        """referred: an image names it, which may not make us wait for a stream"""
        if location == "-" and not referred:
            from diskcopy.storage.stream import StreamReader

            return StreamReader(0, "standard input")
        if is_remote(location):
            from diskcopy.storage.ssh.file import RemoteFile
            from diskcopy.storage.ssh.location import Location

            return RemoteFile(Location.parse(location), self._ssh, locking=not self._force_share)
        path = _path(location)
        if _is_block_device(path):
            from diskcopy.storage.block import BlockDevice

            return BlockDevice(path, locking=not self._force_share)
        about = _stat(path)
        if stat.S_ISDIR(about.st_mode):
            raise Refused(path, "is a directory", remedy="name the image in it")
        if not stat.S_ISREG(about.st_mode):
            if referred:
                raise Refused(path, "is neither a file nor a block device")
            from diskcopy.storage.stream import StreamReader

            return StreamReader.at(path)
        return File(path, locking=not self._force_share)

    def _open_format(
        self, storage: Image, location: str, format: str | None, chain: tuple[frozenset[Lineage], ...]
    ) -> Image:
        if "sequential" in storage.can:
            if format not in (None, "raw"):
                raise UsageError(location, f"{format} cannot be read from a stream", remedy="name a file")
            return Raw(storage)
        if format == "raw":
            return Raw(storage)
        size = storage.size or 0
        first_bytes = bytes(storage.read(0, min(size, _PROBE)))
        if format == "qcow2" or first_bytes.startswith(b"QFI\xfb"):
            from diskcopy.formats.qcow2.reader import Qcow2

            try:
                return Qcow2(storage, None if self._untrusted else _Reference(self, location, chain))
            except WrongFormat:
                if format is not None:
                    raise
        known.refuse(storage, first_bytes)
        return Raw(storage)


class _Reference:
    """Opens what the image at a location refers to: backing images and data files."""

    def __init__(self, opener: _Opener, location: str, chain: tuple[frozenset[Lineage], ...]) -> None:
        self._opener = opener
        self._location = location
        self._chain = chain

    def __call__(self, reference: str, format: str | None) -> Image:
        location = self._resolved(reference)
        if format is not None and format not in FORMATS:
            raise Unsupported(
                self._location,
                f"refers to {reference!r}, an image of format {format!r}, which diskcopy does not read",
                remedy="convert it with qemu-img",
            )
        try:
            return self._opener.open(location, format, self._chain)
        except Error as error:
            if error.remedy is None and error.name == location:
                error.remedy = f"{self._location} refers to it"
            raise

    def _resolved(self, reference: str) -> str:
        """The location that is meant: a relative name from the image that says it, as in qemu,
        and any path on the host that has that image."""
        if is_remote(reference):
            return reference
        if reference.startswith("file:") and not reference.startswith("file://"):
            reference = reference[len("file:") :]
        elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", reference):
            raise Unsupported(
                self._location,
                f"refers to {reference!r}, and only files and ssh:// are followed",
                remedy="copy it first",
            )
        if is_remote(self._location):
            from diskcopy.storage.ssh.location import Location

            return str(Location.parse(self._location).join(reference))
        return os.path.join(os.path.dirname(self._location), reference)


def _create_storage(
    location: str,
    size: int | None,
    source: frozenset[Lineage],
    *,
    preallocate: bool,
    durable: bool,
    ssh: SshOptions,
) -> Image:
    if location == "-":
        from diskcopy.storage.stream import StreamWriter

        return StreamWriter(1, "standard output")
    if location == "null:":
        from diskcopy.storage.null import Null

        return Null()
    if is_remote(location):
        from diskcopy.storage.ssh.file import NewRemoteFile
        from diskcopy.storage.ssh.location import Location

        if preallocate:
            remedy = "leave --preallocate away"
            raise UsageError(location, "space on another host is not reserved", remedy=remedy)
        new = NewRemoteFile(Location.parse(location), ssh, size=size, durable=durable)
        try:
            # What its name stands for now, only its host can tell.
            _refuse_source(location, new.identity(), source)
        except BaseException:
            new.close()
            raise
        return new
    path = _path(location)
    if _is_block_device(path):
        from diskcopy.storage.block import BlockDevice, device_identity

        _refuse_source(location, device_identity(_stat(path)), source)
        return BlockDevice(path, writable=True)
    if os.path.exists(path):
        about = _stat(path)
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            from diskcopy.storage.stream import StreamWriter

            return StreamWriter.at(path)
    # What would be replaced, as NewFile finds it.
    real = os.path.realpath(path)
    if os.path.exists(real):
        _refuse_source(location, frozenset({(file_identity(_stat(real)),)}), source)
    return NewFile(path, size, preallocate=preallocate, durable=durable)


def _refuse_source(location: str, target: frozenset[Lineage], source: frozenset[Lineage]) -> None:
    if shares_storage(target, source):
        raise Refused(
            location, "is what the copy reads, or holds it", remedy="write to another file or device"
        )


def _refuse_too_small(storage: Image, needed: int) -> None:
    if storage.size is not None and storage.size < needed:
        raise Refused(
            storage.name,
            f"has {storage.size} bytes and the disk needs {needed}",
            remedy=f"use a target at least {needed - storage.size} bytes larger",
        )


def is_remote(location: str) -> bool:
    """Whether a location is on another host."""
    return location.startswith("ssh://")


def _path(location: str) -> str:
    if _SCHEME.match(location):
        scheme = location.split(":", 1)[0]
        raise UsageError(
            location, f"{scheme}:// is not a location diskcopy knows", remedy="use a path, or - for a pipe"
        )
    if not location:
        raise UsageError("''", "is not a location", remedy="use a path, or - for a pipe")
    if "\0" in location:
        raise UsageError(repr(location), "a path cannot have a zero byte in it")
    try:
        os.fsencode(location)
    except UnicodeEncodeError:
        raise UsageError(repr(location), "has characters that no path can have here") from None
    return location


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as failure:
        raise system_failure(path, "open", failure) from None


def _is_block_device(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)
