"""Images and texts a second of `encode`, beside a bare loop over the same open_clip model on ready batches.

    python benchmarks/encode.py [--model ViT-B-32] [--items 512] [--batch-size 32] [--rounds 3] [--device cuda]

The bare loop gets batches that are decoded, resized and tokenised already, and keeps its results; `encode` starts from
JPEG files (500 x 500, as a shop has them) and a texts file and ends with the feature file. Weights are random, made
once: they do not change the time. Both load nothing in the timed part but what belongs to it: the model is in memory
for both. Runs are interleaved; the ratio is that of the medians, its spread that of the rounds. Processor time is that
of all threads: on a machine that others use it is the steadier figure, and it counts decoding even on an idle core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from recbole_prism.prepare import encode
from recbole_prism.prepare.clip_import import import_open_clip
from recbole_prism.prepare.encode_inputs import INPUTS
from recbole_prism.prepare.encode_options import DEFAULTS
from recbole_prism.prepare.encoders import OpenCLIP
from recbole_prism.prepare.files import DatasetFolder
from recbole_prism.prepare.pictures import decode


def make_dataset(root: Path, n_items: int, side: int) -> None:
    """JPEG files with smooth noise, and texts of twenty words."""
    rng = np.random.default_rng(0)
    folder = root / "bench"
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    words = ["".join(rng.choice(list("etaoinshrdlu"), 5)) for _ in range(2000)]
    with open(folder / "bench.images.jsonl", "w") as images, open(folder / "bench.texts.jsonl", "w") as texts:
        for n in range(n_items):
            noise = Image.fromarray(rng.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8))
            noise.resize((side, side), Image.BICUBIC).filter(ImageFilter.DETAIL).save(pictures / f"{n}.jpg", quality=90)
            images.write(json.dumps({"item_id": str(n), "path": f"{n}.jpg"}) + "\n")
            texts.write(json.dumps({"item_id": str(n), "text": " ".join(rng.choice(words, 20))}) + "\n")


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--items", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=500, help="pixels of the square JPEG files")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--modality", nargs="+", default=["image", "text"])
    args = parser.parse_args()
    open_clip = import_open_clip()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make_dataset(root, args.items, args.side)
        torch.manual_seed(0)
        checkpoint = root / "random.pt"
        torch.save(open_clip.create_model(args.model).state_dict(), checkpoint)
        encoder = OpenCLIP(model=args.model, pretrained=str(checkpoint), device=args.device, precision=args.precision)
        folder = DatasetFolder("bench", root)
        options = DEFAULTS | {
            "batch_size": args.batch_size,
            "workers": args.workers,
            "image_root": str(root / "bench" / "pictures"),
        }
        print(f"{args.model} {args.precision} on {args.device}, {torch.get_num_threads()} torch threads,")
        print(f"{os.cpu_count()} cores, {args.items} items, batches of {args.batch_size}, torch {torch.__version__}")
        for modality in args.modality:
            ready = ready_batches(root, modality, encoder, args.batch_size)
            encoder.encode(modality, ready[0]).cpu()  # warm
            seconds: dict[str, list[float]] = {"bare": [], "encode": []}
            of_processor: dict[str, list[float]] = {"bare": [], "encode": []}
            for _ in range(args.rounds):
                wait(args.device)
                start, start_of_processor = time.perf_counter(), time.process_time()
                kept = [encoder.encode(modality, batch) for batch in ready]
                kept = [vectors.cpu() for vectors in kept]
                seconds["bare"].append(time.perf_counter() - start)
                of_processor["bare"].append(time.process_time() - start_of_processor)
                start, start_of_processor = time.perf_counter(), time.process_time()
                source = INPUTS[modality](folder, options)
                encode._encode_one(folder, modality, source, encoder, options, True, False)
                seconds["encode"].append(time.perf_counter() - start)
                of_processor["encode"].append(time.process_time() - start_of_processor)
                shutil.rmtree(folder.work("encode"), ignore_errors=True)
            for name, values in seconds.items():
                rate = args.items / statistics.median(values)
                print(f"{modality:5} {name:6} {rate:9.1f} a second ({min(values):.2f} to {max(values):.2f} s)")
            for kind, times in (("wall", seconds), ("processor", of_processor)):
                ratios = [bare / ours for bare, ours in zip(times["bare"], times["encode"], strict=True)]
                middle = statistics.median(times["bare"]) / statistics.median(times["encode"])
                print(f"{modality:5} {kind}: {middle:.1%} of the bare loop ({min(ratios):.1%} to {max(ratios):.1%})")


def ready_batches(root: Path, modality: str, encoder: OpenCLIP, batch_size: int) -> list[list[torch.Tensor]]:
    """Everything decoded and tokenised beforehand, in the batches that `encode` makes."""
    folder = root / "bench"
    if modality == "image":
        rows = [json.loads(line)["path"] for line in open(folder / "bench.images.jsonl")]
        inputs = [encoder.prepare_image(decode(folder / "pictures" / name)[0]) for name in rows]
    else:
        inputs = encoder.prepare_texts([json.loads(line)["text"] for line in open(folder / "bench.texts.jsonl")])
    return [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]


if __name__ == "__main__":
    main()
