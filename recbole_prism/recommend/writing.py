"""Files that are whole or not there: tables of recommendations and bundles."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from recbole_prism.errors import PRISMError
from recbole_prism.features import umask

COLUMNS = ("user", "rank", "item", "score", "title")
Row = tuple[str, int, str, float, str]


@contextlib.contextmanager
def table(path: Path) -> Iterator[Callable[[list[Row]], None]]:
    """A function that appends rows (user, rank, item, score, title) to a .csv or .parquet file, renamed when complete.

    Raises PRISMError for another suffix, and if the disk refuses.
    """
    if path.suffix not in WRITERS:
        raise PRISMError(f"{path}: unknown kind of table; known: {', '.join(sorted(WRITERS))}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise PRISMError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        with WRITERS[path.suffix](temporary) as append:
            yield append
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except OSError as error:
        raise PRISMError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def _csv(path: str) -> Iterator[Callable[[list[Row]], None]]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        yield writer.writerows


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Callable[[list[Row]], None]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    types = (pa.string(), pa.int32(), pa.string(), pa.float32(), pa.string())
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:

        def append(rows: list[Row]) -> None:
            columns = zip(*rows, strict=True) if rows else [[] for _ in COLUMNS]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield append


WRITERS = {".csv": _csv, ".parquet": _parquet}


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files as a folder or a .zip under another name, then rename; what was there before is gone only then.

    A .zip is there at any time; a folder is not, for the moment between two renames.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise PRISMError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        new = work / path.name
        if path.suffix == ".zip":
            with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:
                for name, payload in files.items():
                    archive.writestr(name, payload)
        else:
            new.mkdir()
            for name, payload in files.items():
                (new / name).write_bytes(payload)
        if path.is_dir():
            os.replace(path, work / "before")
        try:
            os.replace(new, path)
        except OSError:
            if (work / "before").exists():
                os.replace(work / "before", path)
            raise
    except OSError as error:
        raise PRISMError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
