"""What RecBole's atomic files must begin with, checked before anything is read: RecBole's own errors name no file."""

from __future__ import annotations

from pathlib import Path

from recbole_prism.errors import PRISMError, suggest

TYPES = ("token", "token_seq", "float", "float_seq")
ITEM_FIELDS = {  # backbone: the key that names the fields of the .item file that it embeds
    "GRU4RecF": "selected_features",
    "SASRecF": "selected_features",
    "FDSA": "selected_features",
    "S3Rec": "item_attribute",
}


def check_atomic_files(values: dict, backbone: str, *, sequential: bool) -> None:
    """Raise PRISMError if the files of ``values`` (a config) lack a field that a model needs.

    Files that are not there are left to RecBole, which may have saved or may download them.
    """
    file = Path(values["data_path"]) / f"{values['dataset']}.inter"
    if not values.get("benchmark_filename"):
        fields = read_header(file, values) if file.is_file() else None
        for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", *(["TIME_FIELD"] if sequential else [])):
            if values[key] is None and not sequential:  # as RecBole allows context-aware models
                continue
            if fields is not None and values[key] not in fields:
                raise PRISMError(
                    f"{file}: has no field {values[key]!r}{suggest(values[key], fields)}; "
                    f"it has {', '.join(fields)} (set {key})"
                )
            _check_loaded(values, "inter", values[key], key)
    if backbone in ITEM_FIELDS:
        _check_item_fields(values, ITEM_FIELDS[backbone], backbone)


def _check_item_fields(values: dict, key: str, backbone: str) -> None:
    file = Path(values["data_path"]) / f"{values['dataset']}.item"
    wanted = values[key] if isinstance(values[key], list) else [values[key]]
    fields = read_header(file, values) if file.is_file() else {}
    for field in wanted:
        if field not in fields:
            raise PRISMError(
                f"{key}: {backbone} needs {field!r} of {file}, which "
                f"{'has ' + ', '.join(fields) if fields else 'is not there'}; set {key}"
            )
        _check_loaded(values, "item", field, key)
        if not fields[field].startswith("float"):
            continue
        if backbone == "S3Rec":
            raise PRISMError(
                f"{key}: {field!r} of {file} holds numbers, and {backbone} needs a token or token_seq field"
            )
        if field not in (values.get("numerical_features") or ()):
            raise PRISMError(f"{key}: {field!r} of {file} holds numbers; name it in numerical_features too")


def _check_loaded(values: dict, suffix: str, field: str, key: str) -> None:
    """Raise PRISMError if load_col leaves out a field of NAME.suffix."""
    loaded = {suffix: "*"} if values.get("load_col") is None else values["load_col"]
    columns = loaded.get(suffix) or []
    if columns != "*" and field not in columns:
        first = [values["USER_ID_FIELD"], values["ITEM_ID_FIELD"]] if suffix == "inter" else [values["ITEM_ID_FIELD"]]
        wanted = {**loaded, suffix: list(dict.fromkeys([*first, *columns, field]))}
        text = ", ".join(f"{name}: {fields if fields == '*' else list(fields)}" for name, fields in wanted.items())
        raise PRISMError(f"{key}: {field!r} is not loaded; set load_col: {{{text.replace(chr(39), '')}}}")


def check_lines(file: Path, values: dict) -> None:
    """Raise PRISMError naming the first line of an atomic file that cannot be read: its encoding, or no number."""
    separator, encoding = values["field_separator"], values.get("encoding") or "utf-8"
    names = file.read_bytes().split(b"\n", 1)[0].decode(encoding).rstrip("\r").split(separator)
    floats = [place for place, name in enumerate(names) if name.endswith(":float")]
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                cells = line.decode(encoding).rstrip("\r\n").split(separator)
            except UnicodeDecodeError as error:
                raise PRISMError(f"{file}, line {number}: is not {encoding} ({error.reason}); set encoding") from error
            for place in floats if number > 1 else []:
                _check_number(cells[place] if place < len(cells) else "", f"{file}, line {number}", names[place])


def _check_number(cell: str, where: str, name: str) -> None:
    try:
        float(cell or "nan")
    except ValueError as error:
        raise PRISMError(f"{where}: {name.partition(':')[0]} must be a number, is {cell[:60]!r}") from error


def read_header(file: Path, values: dict) -> dict[str, str]:
    """{name: type} of the fields in a file's first line, ``name:type`` with RecBole's separator between them."""
    separator, encoding = values["field_separator"], values.get("encoding") or "utf-8"
    with file.open("rb") as lines:
        first = lines.readline()
    if first.startswith(b"\xef\xbb\xbf") and encoding.lower().replace("_", "-") == "utf-8":
        raise PRISMError(f"{file}: begins with a byte order mark; set encoding: utf-8-sig, or save it without")
    try:
        cells = first.decode(encoding).rstrip("\r\n").split(separator)
    except UnicodeDecodeError as error:
        raise PRISMError(f"{file}: its first line is not {encoding} ({error}); set encoding") from error
    fields = {}
    for cell in cells:
        name, _, kind = cell.partition(":")
        fields[name] = kind
        if not name or kind not in TYPES:
            raise PRISMError(
                f"{file}: its first line must name fields as name:type with {separator!r} between them, types "
                f"{', '.join(TYPES)}; {cell[:60]!r} is none"
            )
    return fields
