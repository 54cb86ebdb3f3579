"""Which files a run reads, so that a comparison is not continued with results of other data."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path

from recbole_prism.compare.plan import Job, defaults_of, given_settings
from recbole_prism.errors import PRISMError


def digests(job: Job) -> dict[str, str]:
    """{file name: SHA-256} of the dataset's yaml and atomic files, and of a PRISM model's feature files.

    Where a modality's file has the name of another, the modality is part of it.

    Files that are not there are left out: RecBole may download them, or the job will say what is missing.
    """
    from recbole_prism.datasets import dataset_yaml
    from recbole_prism.features import READERS
    from recbole_prism.modalities import find_feature_file, modality_sources

    settings = given_settings(job.dataset, job.settings)
    data_path = str(settings.get("data_path", "dataset/"))
    folder = Path(data_path) / job.dataset
    paths = [dataset_yaml(job.dataset, data_path), *sorted(folder.glob(f"{job.dataset}*.inter"))]
    paths += [folder / f"{job.dataset}.{suffix}" for suffix in ("item", "user")]
    files = {path.name: path for path in paths if path}
    if defaults := defaults_of(job.model):
        where = {**defaults[0], **settings, "dataset": job.dataset, "data_path": str(folder)}
        for modality, source in modality_sources(where).items():
            if Path(source).suffix in READERS:
                with contextlib.suppress(PRISMError):
                    file = find_feature_file(where, source)
                    known = files.get(file.name, file) == file
                    files[file.name if known else f"{modality}: {file.name}"] = file
    return {name: _sha256(file, file.stat().st_mtime_ns) for name, file in files.items() if file.is_file()}


def has_changed(job: Job, folder: Path) -> bool:
    """Whether a run of the job in ``folder`` read other files than there are now; not, if it noted none."""
    before = json.loads((folder / "job.json").read_text(encoding="utf-8")).get("data")
    return before is not None and before != digests(job)


@functools.cache
def _sha256(file: Path, _changed: int) -> str:
    from recbole_prism.prepare.files import sha256

    return sha256(file)
