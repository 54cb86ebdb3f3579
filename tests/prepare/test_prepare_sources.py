"""Every raw format, made small, through `prepare`."""

from __future__ import annotations

import json

import pytest

from recbole_prism.errors import PRISMError
from tests.prepare import prepare_raw as raw


def test_amazon_2014_python_literals(make, tmp_path):
    made = make("amazon-2014", **raw.amazon_2014(tmp_path))
    assert made.item["B000"]["title"] == 'Shampoo & "Soap" for men\'s hair'
    assert made.item["B000"]["brand"] == "L'Oréal"
    assert made.item["B000"]["price"] == "3.17"
    assert made.item["B002"]["categories"] == "Beauty Hair_Care"
    assert made.texts["B002"] == "Item 2. Beauty, Hair Care. Bold claim: a < b > c"
    assert made.item["B003"]["title"] == "tab here newline"
    assert {row["item_id"]: row["url"] for row in made.images}["B004"] == "http://example.org/4.jpg"
    assert "B003" not in {row["item_id"] for row in made.images}  # ftp


def test_item_in_reviews_without_metadata_keeps_its_interactions(make, tmp_path):
    made = make("amazon-2014", **raw.amazon_2014(tmp_path))
    assert set(made.item["B001"].values()) == {"B001", ""}
    assert "B001" not in made.texts
    assert any(row["item_id"] == "B001" for row in made.inter)
    assert made.report["counts"]["items"]["without_metadata"] == 1


def test_paper_row_is_printed_beside(make, tmp_path, capsys):
    from recbole_prism.prepare import prepare

    made = make("amazon-2014", **raw.amazon_2014(tmp_path))
    assert made.report["paper"] == "Beauty"
    for line in prepare._summary(prepare.DatasetFolder("made", tmp_path), made.report):
        print(line)
    printed = capsys.readouterr().out
    assert "22,363" in printed and "198,502" in printed and "-22,351" in printed
    assert "72 of 72 interactions kept; left out: none" in printed


@pytest.mark.parametrize("broken", [[], ["{"]])
def test_blanks_around_ids_are_none_of_them(make, tmp_path, broken):
    """Whether another line of the block is broken, and lines are read one by one, or not."""
    files = raw.amazon_2014(tmp_path)
    rows = [json.dumps({**row, "reviewerID": f"{row['reviewerID']} "}) for row in raw.reviews_2014()]
    raw.gz(files["reviews"], rows + broken)
    made = make("amazon-2014", max_bad_lines=0.1, **files)
    assert {row["user_id"] for row in made.inter} == {f"U{n}" for n in range(12)}


def test_amazon_2018(make, tmp_path):
    made = make("amazon-2018", images_per_item=2, **raw.amazon_2018(tmp_path))
    assert made.item["B000"]["title"] == "" and made.item["B000"]["price"] == ""
    assert made.item["B001"]["price"] == "1012.5"
    assert made.texts["B001"] == "Item 1. Brand. Home & Kitchen, Cups. first second"
    assert [row["url"][-6:] for row in made.images if row["item_id"] == "B001"] == ["/1.jpg", "1b.jpg"]


def test_amazon_2023(make, tmp_path):
    made = make("amazon-2023", template="{title} [{features}]", **raw.amazon_2023(tmp_path))
    assert [row["url"] for row in made.images] == ["https://x.org/main.jpg"] * 8
    assert made.item["B001"]["brand"] == "Maker" and made.item["B002"]["brand"] == "Store"
    assert made.texts["B001"] == "Item 1 soft"
    assert made.inter[0]["timestamp"].endswith("007")


def test_yelp_photo_ids_never_leave_the_folder(make, tmp_path):
    made = make("yelp", images_per_item=5, **raw.yelp(tmp_path / "yelp"))
    assert made.images == [{"item_id": "B000", "path": "good_photo-1.jpg"}]
    assert made.report["counts"]["items"]["image_files_missing"] == 1
    assert any(row["reason"] == "no usable photo_id" for row in made.report["bad_lines"])
    assert made.texts["B003"] == "Café 3. Food, Coffee & Tea. Tampa, FL"
    assert made.inter[0]["timestamp"] == "1531433351"  # 2018-07-12 22:09:11 UTC comes first


@pytest.mark.parametrize("release", ["100k", "1m", "latest"])
def test_movielens(make, tmp_path, release):
    made = make("movielens", **raw.movielens(tmp_path / "ml", release))
    assert made.texts["1"].startswith("Les Misérables (1995). Comedy, Sci-Fi.")
    assert made.history("1") == ["1", "2", "3"]
    assert made.item["3"]["title"] == ""


def test_movielens_titles_with_commas(make, tmp_path):
    """As written in the file -> as a person would read it."""
    titles = {
        "Good bye, Lenin! (2003)": "Good bye, Lenin! (2003)",
        "Come Back, Africa (1959)": "Come Back, Africa (1959)",
        "City of Lost Children, The (Cité des enfants perdus, La) (1995)": (
            "The City of Lost Children (Cité des enfants perdus, La) (1995)"
        ),
        "Postino, Il (Postman, The) (1994)": "Il Postino (Postman, The) (1994)",
        "Matrix, The": "The Matrix",
    }
    files = raw.movielens(tmp_path / "ml", "latest")
    lines = [f'{n},"{title}",Drama' for n, title in enumerate(titles, 1)]
    (tmp_path / "ml" / "movies.csv").write_text("\n".join(["movieId,title,genres", *lines]), encoding="utf-8")
    ratings = [f"1,{n},3,{n}" for n in range(1, len(titles) + 1)]
    (tmp_path / "ml" / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *ratings]))
    made = make("movielens", **files)
    assert [row["title"] for row in made.item.values()] == list(titles.values())


def test_movielens_10m_is_utf8_under_the_names_of_1m(make, tmp_path):
    files = raw.movielens(tmp_path / "ml", "1m")
    movies = tmp_path / "ml" / "movies.dat"
    movies.write_bytes(movies.read_bytes().decode("latin-1").encode("utf-8"))
    made = make("movielens", **files)
    assert made.item["1"]["title"] == "Les Misérables (1995)" and made.report["bad_lines"] == []


def test_a_template_may_name_any_column(make, tmp_path):
    (tmp_path / "plots.tsv").write_text("item_id\tPlot\tsub-title\truns in\n2\tA man.\tOne\tUtah\n")
    made = make(
        "movielens",
        extra=tmp_path / "plots.tsv",
        template="{title}[: {sub-title}][, {runs in}][. { Plot }]",
        **raw.movielens(tmp_path / "ml", "100k"),
    )
    assert made.texts == {"1": "Les Misérables (1995)", "2": "Film (1996): One, Utah. A man."}
    with pytest.raises(PRISMError, match=r"unknown fields \['plot'\]; available: .*'Plot'"):
        make(
            "movielens",
            name="other",
            extra=tmp_path / "plots.tsv",
            template="{title}[. {plot}]",
            **raw.movielens(tmp_path / "ml", "100k"),
        )


def test_movielens_with_posters_and_plots(make, tmp_path):
    posters = tmp_path / "posters"
    posters.mkdir()
    (posters / "1.jpg").write_bytes(b"x")
    (posters / "3.png").write_bytes(b"x")
    (tmp_path / "plots.tsv").write_text("item_id\tplot\n1\tA man steals bread.\n9\tnot in the data\n")
    made = make(
        "movielens",
        image_folder=posters,
        extra=tmp_path / "plots.tsv",
        template="{title}[: {plot}]",
        **raw.movielens(tmp_path / "ml", "100k"),
    )
    assert made.texts == {"1": "Les Misérables (1995): A man steals bread.", "2": "Film (1996)"}
    assert made.images == [{"item_id": "1", "path": "1.jpg"}, {"item_id": "3", "path": "3.png"}]


def test_a_new_picture_is_noticed_however_deep(make, tmp_path):
    write_table(tmp_path / "events.csv", [("user_id", "item_id"), ("u", "a"), ("u", "b")], ",")
    write_table(tmp_path / "shop.csv", [("item_id", "pic"), ("a", "x/y/a.jfif")], ",")

    def run():
        return make(
            "table",
            interactions=tmp_path / "events.csv",
            items=tmp_path / "shop.csv",
            image_column="pic",
            missing_timestamps="order",
            image_folder=tmp_path / "pictures",
        )

    (tmp_path / "pictures" / "x" / "y").mkdir(parents=True)
    assert run().images == [] and run().images == []
    (tmp_path / "pictures" / "x" / "y" / "a.jfif").write_bytes(b"x")
    assert run().images == [{"item_id": "a", "path": "x/y/a.jfif"}]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_table(make, tmp_path, kind):
    separator = "\t" if kind == "tsv" else ","
    rows = [
        ("who", "what", "when"),
        ("u1", "a", "2024-01-02T00:00:00"),
        ("u1", "b", "2024-01-01"),
        ("u2", "a", "bad date"),
    ]
    items = [
        ("sku", "name", "pic"),
        ("a", 'say "hi"', "in/a.jpg"),
        ("b", "line\nbreak", "../b.jpg"),
        ("a", "again", ""),
    ]
    pictures = tmp_path / "pictures"
    (pictures / "in").mkdir(parents=True)
    (pictures / "in" / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    for name, table in (("events", rows), ("shop", items)):
        write_table(tmp_path / f"{name}.{kind}", table, separator)
    made = make(
        "table",
        interactions=tmp_path / f"events.{kind}",
        items=tmp_path / f"shop.{kind}",
        user_column="who",
        item_column="what",
        timestamp_column="when",
        item_id_column="sku",
        title_column="name",
        image_column="pic",
        image_folder=pictures,
    )
    assert made.history("u1") == ["b", "a"] and made.history("u2") == []
    assert made.item["a"]["title"] == 'say "hi"' and made.item["b"]["title"] == "line break"
    assert made.images == [{"item_id": "a", "path": "in/a.jpg"}]
    assert made.report["counts"]["items"]["images_refused"] == 1
    assert "rating" not in made.inter[0]


def write_table(path, rows, separator):
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        columns = {name: [row[n] for row in rows[1:]] for n, name in enumerate(rows[0])}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return
    import csv

    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=separator).writerows(rows)


def test_table_names_a_missing_column(make, tmp_path):
    (tmp_path / "t.csv").write_text("user,item_id\nu,i\n")
    with pytest.raises(PRISMError, match=r"t\.csv: no column 'user_id' \(did you mean 'user'\?\)"):
        make("table", interactions=tmp_path / "t.csv")


def test_wrong_format_is_an_error_not_an_empty_dataset(make, tmp_path):
    (tmp_path / "t.json").write_text("hello\nworld\n")
    with pytest.raises(PRISMError, match="2 of 2 lines are unusable"):
        make("amazon-2018", reviews=tmp_path / "t.json")


def test_broken_last_line_and_wrong_encoding_are_counted(make, tmp_path):
    rows = [json.dumps(row).encode() for row in raw.reviews_2014()]
    rows[3] = rows[3].replace(b"fine", b"caf\xe9")
    path = raw.gz(tmp_path / "r.json.gz", [*rows, b'{"reviewerID": "U1", "asin": "B0'])
    made = make("amazon-2018", reviews=path)
    assert made.report["counts"]["read"] == len(rows)
    assert {row["reason"] for row in made.report["bad_lines"]} == {
        "not a JSON object",
        "not utf-8, read as windows-1252 (kept)",
    }


def test_truncated_gzip_is_an_error(make, tmp_path):
    path = raw.amazon_2018(tmp_path)["reviews"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PRISMError, match="end early; get the file again"):
        make("amazon-2018", reviews=path)
    path.write_bytes(path.read_bytes()[:30] + b"garbage" * 9)
    with pytest.raises(PRISMError, match="damaged gzip|end early"):
        make("amazon-2018", reviews=path)
