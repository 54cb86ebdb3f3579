"""Small raw files in every format that `prepare` reads, ugly ones included."""

from __future__ import annotations

import gzip
import json
from pathlib import Path


def gz(path: Path, lines: list[bytes | str]) -> Path:
    data = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines)
    path.write_bytes(gzip.compress(data))
    return path


def reviews_2014(n_users: int = 12, n_items: int = 8) -> list[dict]:
    """Everybody reviews six items, one a day; so that a 5-core exists."""
    return [
        {
            "reviewerID": f"U{user}",
            "asin": f"B{(user + step) % n_items:03d}",
            "reviewerName": 'J. "Q"',
            "helpful": [0, 0],
            "reviewText": "fine &amp; dandy",
            "overall": float(1 + (user + step) % 5),
            "summary": "ok",
            "unixReviewTime": 1_400_000_000 + 86_400 * (10 - step),
            "reviewTime": "05 13, 2014",
        }
        for user in range(n_users)
        for step in range(6)
    ]


def metadata_2014(n_items: int = 8) -> list[str]:
    """Python literals with the real files' uglinesses; item B001 has no line at all."""
    special = {
        0: {"title": 'Shampoo &amp;amp; "Soap" for men\'s hair', "brand": "L'Or&eacute;al", "price": 3.17},
        2: {
            "description": ["<b>Bold</b> claim:", "a < b &gt; c<script>alert(1)</script>"],
            "categories": [["Beauty", "Hair Care"]],
        },
        3: {"title": "tab\there\nnewline", "imUrl": "ftp://example.org/no.jpg"},
    }
    lines = []
    for n in range(n_items):
        if n != 1:
            item = {
                "asin": f"B{n:03d}",
                "title": f"Item {n}",
                "imUrl": f"http://example.org/{n}.jpg",
                "categories": [["Beauty"]],
            }
            lines.append(repr({**item, **special.get(n, {})}))
    return lines


def amazon_2014(folder: Path) -> dict[str, Path]:
    return {
        "reviews": gz(folder / "reviews_Beauty_5.json.gz", [json.dumps(row) for row in reviews_2014()] + [""]),
        "metadata": gz(folder / "meta_Beauty.json.gz", metadata_2014()),
    }


def amazon_2018(folder: Path) -> dict[str, Path]:
    items = [
        {
            "asin": f"B{n:03d}",
            "title": "var aPageStart = (new Date()).getTime();" if n == 0 else f"Item {n}",
            "brand": "Brand",
            "category": ["Home &amp; Kitchen", "Cups"],
            "description": ["first", "", "second"],
            "feature": ["one", "two"],
            "price": "$1,012.50" if n else ".a-box-inner{background-color:#fff}",
            "imageURL": [f"https://example.org/{n}_small.jpg"],
            "imageURLHighRes": [f"https://example.org/{n}.jpg", f"https://example.org/{n}b.jpg"],
        }
        for n in range(8)
    ]
    return {
        "reviews": gz(folder / "Home_and_Kitchen_5.json.gz", [json.dumps(row) for row in reviews_2014()]),
        "metadata": gz(folder / "meta_Home_and_Kitchen.json.gz", [json.dumps(item) for item in items]),
    }


def amazon_2023(folder: Path) -> dict[str, Path]:
    reviews = [
        {
            "rating": row["overall"],
            "title": "t",
            "text": row["reviewText"],
            "images": [],
            "asin": "variant",
            "parent_asin": row["asin"],
            "user_id": row["reviewerID"],
            "timestamp": row["unixReviewTime"] * 1000 + 7,
        }
        for row in reviews_2014()
    ]
    pictures = [
        {"thumb": "https://x.org/t.jpg", "large": "https://x.org/side.jpg", "hi_res": None, "variant": "PT01"},
        {"thumb": "https://x.org/t.jpg", "large": "https://x.org/main.jpg", "hi_res": None, "variant": "MAIN"},
    ]
    columns = {key: [picture[key] for picture in pictures] for key in pictures[0]}
    items = [
        {
            "parent_asin": f"B{n:03d}",
            "title": f"Item {n}",
            "main_category": "All Beauty",
            "categories": [],
            "store": "Store",
            "details": {"Brand": "Maker"} if n % 2 else "{}",
            "price": None if n else 9.99,
            "description": [],
            "features": ["soft"],
            "images": pictures if n % 2 else columns,
        }
        for n in range(8)
    ]
    return {
        "reviews": gz(folder / "All_Beauty.jsonl.gz", [json.dumps(row) for row in reviews]),
        "metadata": gz(folder / "meta_All_Beauty.jsonl.gz", [json.dumps(item) for item in items]),
    }


def yelp(folder: Path, picture: bytes = b"jpeg") -> dict[str, Path]:
    (folder / "photos").mkdir(parents=True)
    reviews = [
        {
            "review_id": f"r{n}",
            "user_id": row["reviewerID"],
            "business_id": row["asin"],
            "stars": row["overall"],
            "text": "x",
            "date": f"2018-07-{17 - n % 6:02d} 22:09:11",
        }
        for n, row in enumerate(reviews_2014())
    ]
    businesses = [
        {
            "business_id": f"B{n:03d}",
            "name": f"Caf\u00e9 {n}",
            "city": "Tampa",
            "state": "FL",
            "categories": "Food, Coffee & Tea",
        }
        for n in range(8)
    ]
    photos = [
        {"photo_id": "../../../etc/passwd", "business_id": "B000", "caption": "", "label": "food"},
        {"photo_id": "good_photo-1", "business_id": "B000", "caption": "", "label": "food"},
        {"photo_id": "not_on_disk", "business_id": "B001", "caption": "", "label": "food"},
    ]
    for name, rows in (("review", reviews), ("business", businesses)):
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / f"yelp_academic_dataset_{name}.json").write_text(lines, encoding="utf-8")
    (folder / "photos.json").write_text("\n".join(json.dumps(row) for row in photos), encoding="utf-8")
    (folder / "photos" / "good_photo-1.jpg").write_bytes(picture)
    return {"folder": folder}


def movielens(folder: Path, release: str) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(user, item, 3 + (user + item) % 3, 900_000_000 + 10 * item) for user in range(1, 7) for item in (3, 1, 2)]
    if release == "100k":
        (folder / "u.data").write_text("\n".join("\t".join(map(str, row)) for row in rows))
        flags = ["0"] * 19
        flags[5] = flags[15] = "1"
        films = [
            [n, title, "01-Jan-1995", "", "http://x", *flags]
            for n, title in ((1, "Misérables, Les (1995)"), (2, "Film (1996)"))
        ]
        (folder / "u.item").write_bytes("\n".join("|".join(map(str, film)) for film in films).encode("latin-1"))
    elif release == "1m":
        (folder / "ratings.dat").write_text("\n".join("::".join(map(str, row)) for row in rows))
        (folder / "movies.dat").write_bytes(
            "1::Misérables, Les (1995)::Comedy|Sci-Fi\n2::Film: part::two (1996)::Drama".encode("latin-1")
        )
    else:
        (folder / "ratings.csv").write_text(
            "userId,movieId,rating,timestamp\n" + "\n".join(",".join(map(str, row)) for row in rows)
        )
        (folder / "movies.csv").write_text(
            'movieId,title,genres\n1,"Misérables, Les (1995)",Comedy|Sci-Fi\n2,"A ""quoted"", film (1996)",'
            "(no genres listed)\n",
            encoding="utf-8",
        )
    return {"folder": folder}


def table(tmp_path, rows, header="user_id,item_id,rating,timestamp"):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return {"interactions": path, "rating_column": "rating", "timestamp_column": "timestamp"}
