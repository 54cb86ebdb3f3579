"""Encoders: a small table. One has ``modalities``, prepares inputs in threads and encodes batches on its device.

To add one: subclass ``Encoder`` and put it into ``ENCODERS``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_prism.devices import check_device
from recbole_prism.errors import PRISMError, suggest
from recbole_prism.prepare.clip_import import import_open_clip, mend_torchvision
from recbole_prism.prepare.files import sha256, versions

PRECISIONS = ("fp32", "fp16", "bf16")


class Encoder:
    """What ``encode`` needs of an encoder.

    ``prepare_image`` and ``prepare_texts`` run in several threads at once; ``encode`` runs in one.
    """

    modalities: tuple[str, ...] = ()

    def __init__(self, *, model: str, pretrained: str | None, device: str, precision: str):
        """Loads the model. Raises PRISMError for names or files that do not exist and packages not installed."""
        self.device = device

    def prepare_image(self, picture: Any) -> Any:
        """A PIL image in RGB -> what ``encode`` takes in a list; never asked of an encoder without ``image``."""
        raise NotImplementedError

    def prepare_texts(self, texts: Sequence[str]) -> list[Any]:
        """Texts -> as many inputs for ``encode``, each cut at the context's length."""
        raise NotImplementedError

    def count_tokens(self, word: str) -> int:
        """Tokens of one word, for cutting long texts into chunks."""
        raise NotImplementedError

    context_tokens = 75  # that a chunk may have, without start and end

    def encode(self, modality: str, batch: list[Any]) -> Any:
        """Prepared inputs -> float32 tensor [B, d] on the device, not waited for."""
        raise NotImplementedError

    def provenance(self, modality: str) -> dict[str, str]:
        """``encoder``, ``revision`` and all else that decides the numbers; strings."""
        raise NotImplementedError


def choose_device(device: str | None) -> str:
    """The given one, else cuda, else cpu. Raises PRISMError if torch does not have it."""
    import torch

    if device is None or device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    return device


class OpenCLIP(Encoder):
    """Both towers of an open_clip model; ``pretrained`` is a tag that open_clip knows or a checkpoint file."""

    modalities = ("image", "text")

    def __init__(self, *, model: str, pretrained: str | None, device: str, precision: str):
        open_clip = import_open_clip()
        if "/" in model or "\\" in model or ":" in model:
            raise PRISMError(
                f"--model {model!r}: the name of an architecture such as ViT-B-32; weights go to --pretrained"
            )
        if model not in open_clip.list_models():
            raise PRISMError(f"--model {model!r}: open_clip has no such model{suggest(model, open_clip.list_models())}")
        self.checkpoint = _checkpoint(open_clip, model, pretrained)
        self.device, self.model_name, self.precision = device, model, precision
        self.tag = pretrained if not Path(str(pretrained)).is_file() else Path(str(pretrained)).name
        self.checkpoint_sha256 = sha256(self.checkpoint)
        # the tag, where there is one: open_clip then also takes the preprocessing that goes with it
        weights = str(self.checkpoint) if Path(str(pretrained)).is_file() else pretrained
        try:
            self.model, _, self.transform = open_clip.create_model_and_transforms(
                model, pretrained=weights, precision=precision, device=device
            )
        except Exception as error:  # torch's and open_clip's errors for a checkpoint of another model have many types
            raise PRISMError(f"{self.checkpoint}: no checkpoint for {model} ({str(error).splitlines()[0]})") from error
        self.model.eval()
        try:
            self.tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # some models' tokenizers need the hub, or packages of their own
            raise PRISMError(f"no tokenizer for {model} ({str(error).splitlines()[0][:200]})") from error
        self.input_type = open_clip.get_input_dtype(precision)
        self.context_tokens = int(getattr(self.tokenizer, "context_length", None) or 77) - 2
        self._longest = 0
        if hasattr(self.tokenizer, "encoder") and isinstance(self.tokenizer.encoder, dict):
            self._longest = max(map(len, self.tokenizer.encoder)) * (self.context_tokens + 2)

    def prepare_image(self, picture: Any) -> Any:
        return self.transform(picture)

    def prepare_texts(self, texts: Sequence[str]) -> list[Any]:
        # Tokenising what is cut off afterwards takes time: no token is longer than the vocabulary's longest.
        if self._longest:
            texts = [text[: self._longest] for text in texts]
        return list(self.tokenizer(list(texts)))

    def count_tokens(self, word: str) -> int:
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(word.lower()))
        return len(self.tokenizer.tokenizer(word, add_special_tokens=False)["input_ids"])

    def encode(self, modality: str, batch: list[Any]) -> Any:
        import torch

        inputs = torch.stack(batch)
        if self.device.startswith("cuda"):
            inputs = inputs.pin_memory().to(self.device, non_blocking=True)
        with torch.inference_mode():
            if modality == "image":
                return self.model.encode_image(inputs.to(self.device, self.input_type)).float()
            return self.model.encode_text(inputs.to(self.device)).float()

    def provenance(self, modality: str) -> dict[str, str]:
        facts = {
            "encoder": f"open_clip {self.model_name}",
            "revision": f"{self.tag} sha256:{self.checkpoint_sha256}",
            "precision": self.precision,
            "preprocessing": "RGB, transparency on white, upright; " + " ".join(str(self.transform).split()),
        }
        if modality == "text":
            facts["preprocessing"] = f"{type(self.tokenizer).__name__}, {self.context_tokens + 2} tokens"
        return facts | {"packages": json.dumps(versions("open_clip_torch", "torch", "torchvision", "pillow"))}


def _checkpoint(open_clip: Any, model: str, pretrained: str | None) -> Path:
    """The file with the weights, downloaded by open_clip if need be."""
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise PRISMError(f"--pretrained is needed: a checkpoint file, or one of {tags}")
    if Path(pretrained).is_file():
        return Path(pretrained)
    if not open_clip.is_pretrained_cfg(model, pretrained):
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise PRISMError(f"--pretrained {pretrained!r}: neither a file nor one of {tags}{suggest(pretrained, tags)}")
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, pretrained)))
    except Exception as error:  # whatever the network or the hub's client raises
        raise PRISMError(
            f"--pretrained {pretrained}: cannot be downloaded ({str(error).splitlines()[0][:200]}); give a file instead"
        ) from error


class SentenceTransformers(Encoder):
    """Texts by a sentence-transformers model: a folder, or a name its library can download."""

    modalities = ("text",)

    def __init__(self, *, model: str, pretrained: str | None, device: str, precision: str):
        mend_torchvision()  # transformers imports it where it is installed
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise PRISMError(f"this encoder needs a package: pip install sentence-transformers ({error})") from error
        import torch

        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        try:
            self.model = SentenceTransformer(pretrained or model, device=device).to(types[precision])
        except Exception as error:  # the library's errors for a name it does not know have many types
            raise PRISMError(f"--model {pretrained or model}: {str(error).splitlines()[0][:200]}") from error
        self.model.eval()
        self.device, self.precision = device, precision
        self.name = "/".join(Path(pretrained or model).parts[-2:])
        self.context_tokens = int(self.model.max_seq_length or 512) - 2
        self.digest = _weights_sha256(Path(pretrained or model))

    def prepare_texts(self, texts: Sequence[str]) -> list[Any]:
        return list(texts)

    def count_tokens(self, word: str) -> int:
        return len(self.model.tokenizer(word, add_special_tokens=False)["input_ids"])

    def encode(self, modality: str, batch: list[Any]) -> Any:
        return self.model.encode(batch, batch_size=len(batch), convert_to_tensor=True, show_progress_bar=False).float()

    def provenance(self, modality: str) -> dict[str, str]:
        return {
            "encoder": f"sentence-transformers {self.name}",
            "revision": f"sha256:{self.digest}" if self.digest else self.name,
            "precision": self.precision,
            "preprocessing": f"{self.context_tokens + 2} tokens",
            "packages": json.dumps(versions("sentence-transformers", "transformers", "torch")),
        }


def _weights_sha256(folder: Path) -> str:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return sha256(folder / name)
    return ""


ENCODERS: dict[str, type[Encoder]] = {"open_clip": OpenCLIP, "sentence-transformers": SentenceTransformers}


def get_encoder(name: str) -> type[Encoder]:
    """Raises PRISMError listing the encoders there are."""
    if name not in ENCODERS:
        raise PRISMError(
            f"unknown encoder {name!r}{suggest(name, ENCODERS)}; available: {[*sorted(ENCODERS), 'vectors']}"
        )
    return ENCODERS[name]
