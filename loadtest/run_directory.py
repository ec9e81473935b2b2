"""A run on disk: ``run.json``, the raw files while it lasts, one Parquet file a table afterwards. The seam between measuring and judging.

``run.json`` says what was run; ``raw/<worker>.frames`` holds the record while the run lasts (``raw_file.py``); compaction turns it into
one Parquet file a table (``tables.py`` names the columns).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .own_files import first_link, open_no_link, sync
from .raw_file import RawFile, RawWriter, has_ended, read_frames
from .tables import SCHEMA_VERSION, TABLES, completed, schema_of

PORTION_BYTES = 1 << 25
"""Of a table's rows that are held at a time where it is written, or read, in portions."""


class RunDirectoryError(Exception):
    """The directory is not a run this version can read or write; the message says what to do."""


@dataclass(slots=True)
class RunDirectory:
    """One run on disk: its metadata, its raw files while it lasts, its tables afterwards."""

    path: Path
    raw_files: list[RawFile] = field(default_factory=list)

    @classmethod
    def create(cls, path: Path, metadata: Mapping[str, Any]) -> RunDirectory:
        """Make a new run directory; RunDirectoryError when it exists already or cannot be written."""
        if os.path.lexists(path):
            raise RunDirectoryError(f"expected a new run directory, but {path} exists; choose another --run-dir or remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / "raw").mkdir()
        except OSError as error:
            raise RunDirectoryError(f"cannot write the run directory {path}: {error.strerror}; choose a writable folder") from None
        run = cls(path)
        run.write_metadata({"schema_version": SCHEMA_VERSION, "status": "running", **metadata})
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run directory; RunDirectoryError when it is none or of a newer schema."""
        run = cls(path)
        version = run.metadata().get("schema_version")
        if type(version) is not int or version < 1:
            raise RunDirectoryError(f"expected a schema_version in {path / 'run.json'}, found {version!r}; this is not a run directory")
        if version > SCHEMA_VERSION:
            raise RunDirectoryError(
                f"{path} was written with schema {version}, this version reads up to {SCHEMA_VERSION}; use the version that wrote it, "
                "or a newer one"
            )
        if (link := first_link(path)) is not None:
            raise RunDirectoryError(
                f"expected a run directory with files of its own, and {link} is a symbolic link; copy the files themselves"
            )
        return run

    def version(self) -> int:
        """The version of the schema that the run was written with."""
        return int(self.metadata().get("schema_version") or SCHEMA_VERSION)

    def metadata(self) -> dict[str, Any]:
        """The contents of run.json."""
        try:
            loaded = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunDirectoryError(f"expected a run directory with run.json, but {self.path} has none") from None
        except NotADirectoryError:
            raise RunDirectoryError(f"expected a run directory, but {self.path} is a file") from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunDirectoryError(f"cannot read {self.path / 'run.json'}: {error}") from None
        if not isinstance(loaded, dict):
            raise RunDirectoryError(f"expected an object in {self.path / 'run.json'}, found {type(loaded).__name__}")
        return loaded

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace run.json in one step."""
        write_text(self.path / "run.json", json.dumps(metadata, indent=2, ensure_ascii=False) + "\n")

    def update_metadata(self, **changes: Any) -> dict[str, Any]:
        """Set top-level keys of run.json and return the whole."""
        metadata = {**self.metadata(), **changes}
        self.write_metadata(metadata)
        return metadata

    def writer(self, worker: str) -> RawWriter:
        """The raw file of ``worker``, which must not have one yet."""
        return RawWriter(self.path, worker)

    def workers_ended(self) -> dict[str, bool]:
        """Which workers have a raw file, and whether it bears its end mark (cheap: reads the last header only)."""
        return {path.stem: has_ended(path) for path in sorted((self.path / "raw").glob("*.frames"))}

    def compact(self) -> list[RawFile]:
        """Turn the raw files into one Parquet file a table, then drop them; returns how each worker's file ended.

        Each Parquet file is written aside, synced and renamed; the raw files go only after all tables stand. Killed at any point, or
        failed (OSError; the raw files are untouched), it can be called again; a compacted directory is left alone (empty list).
        """
        folder = self.path / "raw"
        raw = sorted(folder.glob("*.frames"))
        # Once some raw files are dropped, the others must never be taken for the whole record.
        standing = folder / "compacted"
        if standing.exists():
            states = [RawFile(**state) for state in json.loads(standing.read_text(encoding="utf-8"))]
        elif not folder.is_dir() or (not raw and (self.path / "intervals.parquet").exists()):
            return []
        else:
            states = self._write_tables(raw)
            write_text(standing, json.dumps([asdict(state) for state in states]))
        for path in raw:
            path.unlink()
        standing.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
        self.raw_files = states
        return states

    def _write_tables(self, raw: Sequence[Path]) -> list[RawFile]:
        states, version = [RawFile(path.stem) for path in raw], self.version()
        writers: dict[str, pq.ParquetWriter] = {}
        temporary = {table: self.path / f".{table}.parquet.partial" for table in TABLES}
        pending: dict[str, list[pa.RecordBatch]] = {table: [] for table in TABLES}
        rows, held = dict.fromkeys(TABLES, 0), dict.fromkeys(TABLES, 0)
        closing = ExitStack()

        def flush(table: str) -> None:
            if table not in writers:
                writers[table] = pq.ParquetWriter(temporary[table], TABLES[table], compression="zstd")
                closing.callback(writers[table].close)
            if pending[table]:
                whole = pa.Table.from_batches(pending[table], schema_of(table, version))
                writers[table].write_table(completed(table, whole, TABLES[table].names).combine_chunks())
            pending[table], rows[table], held[table] = [], 0, 0

        try:
            with closing:
                for path, state in zip(raw, states, strict=True):
                    for table, batch in read_frames(path, state, version):
                        pending[table].append(batch)
                        rows[table] += batch.num_rows
                        held[table] += batch.nbytes
                        # Row groups of this size keep the memory of a long run's compaction flat; a row of histograms is long.
                        if rows[table] >= 1 << 18 or held[table] >= PORTION_BYTES:
                            flush(table)
                for table in TABLES:
                    if table != "tokens" or pending[table] or table in writers:
                        flush(table)
            for table in writers:
                sync(temporary[table])
            for table in writers:
                temporary[table].replace(self.path / f"{table}.parquet")
            sync(self.path)
        except BaseException:
            # On a full disk what is half written would be in the way of everything else.
            for path in temporary.values():
                path.unlink(missing_ok=True)
            raise
        return states

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table, from its Parquet file or, before compaction, from the good prefix of the raw files (see ``raw_files``)."""
        parquet = self.path / f"{name}.parquet"
        wanted = list(columns or TABLES[name].names)
        if parquet.exists():
            stored = set(pq.read_schema(parquet).names)
            return completed(name, pq.read_table(parquet, columns=[column for column in wanted if column in stored]), wanted)
        return pa.concat_tables(self._raw_portions(name, wanted))

    def portions(self, name: str) -> Iterator[pa.Table]:
        """The same table in portions of some ten megabytes, for one that may be larger than the memory it is read for."""
        parquet, wanted = self.path / f"{name}.parquet", list(TABLES[name].names)
        if not parquet.exists():
            yield from self._raw_portions(name, wanted)
            return
        with pq.ParquetFile(parquet) as file:
            for group in range(file.num_row_groups):
                yield completed(name, file.read_row_group(group), wanted)

    def _raw_portions(self, name: str, wanted: list[str]) -> Iterator[pa.Table]:
        version = self.version()
        batches: list[pa.RecordBatch] = []
        held = 0
        self.raw_files = []
        for path in sorted((self.path / "raw").glob("*.frames")):
            state = RawFile(path.stem)
            self.raw_files.append(state)
            for table, batch in read_frames(path, state, version):
                if table != name:
                    continue
                batches.append(batch)
                held += batch.nbytes
                if held >= PORTION_BYTES:
                    yield completed(name, pa.Table.from_batches(batches, schema_of(name, version)), wanted)
                    batches, held = [], 0
        yield completed(name, pa.Table.from_batches(batches, schema_of(name, version)), wanted)


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: readers see the old text or the new, never half. OSError also where a link lies in the way."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8", opener=open_no_link) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
