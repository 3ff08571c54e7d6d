"""What a checkpoint file holds, whatever its extension: torch.save's zip, its older format, or a plain pickle."""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import FastUnlearnError
from ...files import require_no_pipe
from .unpickler import LEGACY_MAGIC, Budget, MalformedError, Storage, Unpickler, one_line, read_legacy, storage_of_id

MAX_ENTRIES = 100_000


def read_contents(path: str | Path) -> Any:
    """The object in a checkpoint file: dicts, lists, numbers, text, tensors, `PersistentObject`s.

    Tensors are views of the mapped file wherever their alignment allows; nothing from the file is executed.

    Raises:
        FastUnlearnError: missing, a folder, truncated, not a checkpoint, or a pickle that wants more than tensors and
            plain containers; one line.
    """
    path = Path(path)
    if path.is_dir():
        raise FastUnlearnError(f"{path}: is a folder, not a checkpoint file")
    require_no_pipe(path)
    try:
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise FastUnlearnError(f"{path}: is empty")
            # A private mapping can be written to, as torch wants it, and leaves the file alone.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        raise FastUnlearnError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return _read(data)
    except MalformedError as error:
        raise one_line(path, error) from error


def _read(data: memoryview) -> Any:
    head = bytes(data[:16])
    if head.startswith(b"PK"):
        return read_zip(data)
    if head.startswith(LEGACY_MAGIC):
        return read_legacy(data)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Unpickler(data).load()
    if head[8:9] == b"{":
        raise MalformedError(
            "is a safetensors file; checkpoints of StyleGAN2 are .pt or .pkl files, ours are bundle folders"
        )
    if head.startswith(b"\x1f\x8b"):
        raise MalformedError("is compressed with gzip; unpack it first")
    raise MalformedError("is not a checkpoint (neither a file of torch.save nor a pickle)")


def read_zip(data: memoryview) -> Any:
    """The object that torch.save wrote.

    Raises:
        MalformedError: truncated, damaged, compressed (torch never does that), or not from torch.save.
    """
    entries = dict(_entries(data))
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(roots) != 1:
        raise MalformedError("is a zip file, but not one of torch.save")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise MalformedError("is a TorchScript file, not a checkpoint")
    if bytes(entries.get(f"{root}byteorder", b"little")) != b"little":
        raise MalformedError("was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        key, dtype, numel = storage_of_id(identity)
        entry = entries.get(f"{root}data/{key}")
        if entry is None or len(entry) != numel * dtype.itemsize:
            raise MalformedError("is damaged: a storage is missing or of another size than the pickle says")
        known = storages.setdefault(key, Storage(entry, dtype))
        if known.dtype != dtype:
            raise MalformedError("is damaged: a storage of two types")
        return known

    return Unpickler(entries[f"{root}data.pkl"], 0, storage, Budget.of(data)).load()


def _entries(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Name and bytes of each file in a zip archive, from its directory at the end; none is compressed.

    torch writes archives without comment, and never compresses: its readers map the file.
    """
    try:
        count, at = _directory(data)
        if count > MAX_ENTRIES:
            raise MalformedError(f"holds {count:,} files, which no checkpoint needs")
        total = 0
        for _ in range(count):
            signature, flags, method, packed, size, n_name, n_extra, n_comment, start = struct.unpack_from(
                "<4s4xHH8xIIHHH8xI", data, at
            )
            if signature != b"PK\x01\x02":
                raise MalformedError("is damaged (zip directory)")
            name = str(data[at + 46 : at + 46 + n_name], "utf-8", "replace")
            wide = _wide(data[at + 46 + n_name : at + 46 + n_name + n_extra])
            size, packed, start = (next(wide) if n == 0xFFFFFFFF else n for n in (size, packed, start))
            if method or flags & 1 or packed != size:
                raise MalformedError(
                    "holds compressed or encrypted files, which torch.save does not write (a zip bomb?)"
                )
            total += size
            if total > len(data):
                raise MalformedError("holds more than the file has room for (a zip bomb?)")
            local, n_name_again, n_extra_again = struct.unpack_from("<4s22xHH", data, start)
            begin = start + 30 + n_name_again + n_extra_again
            if local != b"PK\x03\x04" or begin + size > len(data):
                raise MalformedError("is truncated or damaged (zip entry)")
            yield name, data[begin : begin + size]
            at += 46 + n_name + n_extra + n_comment
    except (struct.error, OverflowError, StopIteration, RuntimeError) as error:
        raise MalformedError("is truncated or damaged (zip directory)") from error


def _directory(data: memoryview) -> tuple[int, int]:
    """Number of entries of a zip archive, and where its directory begins."""
    end = len(data) - 22
    signature, count, start = struct.unpack_from("<4s6xH4xI", data, max(end, 0))
    if signature != b"PK\x05\x06":
        raise MalformedError("is truncated (a zip file without its end)")
    if bytes(data[max(end - 20, 0) : max(end - 16, 0)]) == b"PK\x06\x07":
        at = struct.unpack_from("<Q", data, end - 12)[0]
        signature, count, start = struct.unpack_from("<4s28xQ8xQ", data, min(at, len(data)))
        if signature != b"PK\x06\x06":
            raise MalformedError("is damaged (zip directory)")
    return count, start


def _wide(extra: memoryview) -> Iterator[int]:
    """The 64-bit numbers among an entry's extra fields."""
    at = 0
    while at + 4 <= len(extra):
        kind, n = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            yield from (value for (value,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + n // 8 * 8]))
        at += 4 + n
