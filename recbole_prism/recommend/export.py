"""``recbole-prism export``: a checkpoint as a bundle that needs neither its dataset nor pickle."""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path

from recbole_prism.errors import PRISMError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint of RecBole (saved/...pth)")
    parser.add_argument("bundle", metavar="BUNDLE", help="folder to make, or a file if it ends in .zip")
    parser.add_argument("--data-path", help="where the checkpoint's dataset is, if not where it was in training")
    parser.add_argument("--title-field", help="field of the .item file that holds titles (found by name)")
    parser.add_argument(
        "--with-users", action="store_true", help="also the users and their histories, which may be personal data"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle of that name")


def main(arguments: argparse.Namespace) -> int:
    """Write the bundle and say what is in it."""
    from recbole_prism.recommend.bundle import MANIFEST, export_bundle
    from recbole_prism.recommend.recommender import load

    path = Path(arguments.bundle)
    if path.exists() and not arguments.overwrite:
        raise PRISMError(f"{path}: exists already; choose another name or say --overwrite")
    loaded = load(arguments.checkpoint, data_path=arguments.data_path, title_field=arguments.title_field)
    export_bundle(loaded, path, with_users=arguments.with_users, overwrite=arguments.overwrite)
    manifest = (path / MANIFEST).read_bytes() if path.is_dir() else zipfile.ZipFile(path).read(MANIFEST)
    users = f"{len(loaded.users().tokens) - 1} users" if arguments.with_users else "no users"
    titled = sum(bool(loaded.catalogue.title(token)) for token in loaded.catalogue.tokens[1:])
    print(f"{path}: {loaded.name}, {len(loaded.catalogue)} items ({titled} with a title), {users}")
    print(f"  manifest SHA-256 {hashlib.sha256(manifest).hexdigest()}")
    return 0
