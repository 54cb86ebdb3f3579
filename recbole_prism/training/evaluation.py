"""Full-sort evaluation with RecBole's metrics: packed encoder, scores in chunks, no matrix of positives.

Shapes: B rows of RecBole's batch, R rows of a chunk, N items, K the largest ``topk``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from recbole.evaluator import Collector
from torch import Tensor

from recbole_prism.distributed.processes import share_of
from recbole_prism.errors import PRISMError
from recbole_prism.training.dataset import PLACE
from recbole_prism.training.masking import use_fast_masking
from recbole_prism.training.packing import Windows, pack

SCORES = {"cpu": 1 << 23, "cuda": 1 << 28}  # scores held at a time
TOKENS = {"cpu": 1 << 13, "cuda": 1 << 18}  # tokens encoded at a time


class ScoreChunks:
    """In the place of RecBole's scores [B, N]: iterates over (slice of rows, their scores [R, N])."""

    def __init__(self, chunks: list[slice], score: Callable[[slice], Tensor]) -> None:
        self.chunks, self.score = chunks, score

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for rows in self.chunks:
            yield rows, self.score(rows)


class ChunkCollector(Collector):
    """RecBole's collector for ``ScoreChunks``, where each row has one positive item.

    What the metrics read is what RecBole's own collector gathers; metrics that need every rank or score (GAUC, AUC)
    are left to it, chunk by chunk.
    """

    def data_collect(self, train_data) -> None:
        """RecBole's, before anything is trained. Raises PRISMError if there are fewer items than ranks."""
        n_items = train_data._dataset.item_num - 1
        if self.topk and max(self.topk) > n_items:
            raise PRISMError(f"topk: {max(self.topk)} is more than the {n_items} items there are")
        super().data_collect(train_data)

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i) -> None:
        if not isinstance(scores_tensor, ScoreChunks):
            return super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        for rows, scores in scores_tensor:
            positive = positive_i[rows].to(scores.device)
            if any(map(self.register.need, ("rec.meanrank", "rec.score", "data.label"))):
                index = torch.arange(len(positive), device=scores.device)
                super().eval_batch_collect(scores, interaction[rows], index, positive)
            else:
                self._collect(scores, positive)

    def _collect(self, scores: Tensor, positive: Tensor) -> None:
        best = torch.topk(scores, max(self.topk), dim=-1).indices
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", best)
        if self.register.need("rec.topk"):
            hits = best == positive[:, None]
            one = torch.ones(len(positive), 1, dtype=torch.int, device=scores.device)
            self.data_struct.update_tensor("rec.topk", torch.cat([hits.int(), one], 1))


class EvaluationMixin:
    """In front of RecBole's Trainer: the same results from less work."""

    shares_chunks = True  # of each batch, where there are several processes; RecBole's own trainers share batches

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.eval_collector = ChunkCollector(config)
        self._eval_dataset, self._n_chunks = None, 0

    def evaluate(self, eval_data, *args, **kwargs):
        self._n_chunks = 0
        self._eval_dataset = getattr(eval_data, "_dataset", None)
        use_fast_masking(eval_data, self.config)
        return super().evaluate(eval_data, *args, **kwargs)

    def _full_sort_batch_eval(self, batched_data):
        interaction, _, positive_u, positive_i = batched_data
        history = None if self.config["repeatable"] else row_histories(self._eval_dataset, interaction, positive_i)
        lengths = interaction[self.model.ITEM_SEQ_LEN].numpy()

        def score(rows: slice) -> Tensor:
            part = interaction[rows]
            if self.encode:
                scores = self._encode_rows(part) @ self.model.item_embedding.weight.t()
            else:
                scores = self.model.full_sort_predict(part.to(self.device)).view(-1, self.tot_item_num)
            self._after_scoring()
            scores[:, 0] = -torch.inf
            if history is not None:
                inside = (history[0] >= rows.start) & (history[0] < rows.stop)
                scores[history[0][inside] - rows.start, history[1][inside]] = -torch.inf
            return scores

        return interaction, ScoreChunks(self._own(self._chunks(lengths)), score), positive_u, positive_i

    def _own(self, chunks: list[slice]) -> list[slice]:
        """Of several processes, each scores every ``world_size``-th chunk of the evaluation."""
        rank, world_size = share_of(self.config)
        first, self._n_chunks = (rank - self._n_chunks) % world_size, self._n_chunks + len(chunks)
        return chunks[first::world_size]

    def _after_scoring(self) -> None:
        """Called after each chunk; ``PRISMTrainer`` reads the experts' weights."""

    def _chunks(self, lengths: np.ndarray) -> list[slice]:
        """Runs of rows whose scores and tokens fit."""
        kind = self.device.type
        n_rows = max(1, SCORES.get(kind, SCORES["cpu"]) // self.tot_item_num)
        part = (np.cumsum(lengths) - 1) // TOKENS.get(kind, TOKENS["cpu"]) if self.encode else np.zeros(len(lengths))
        cuts = [0, *(np.flatnonzero(np.diff(part)) + 1), len(lengths)]
        spans = zip(cuts[:-1], cuts[1:], strict=True)
        return [slice(a, min(a + n_rows, end)) for start, end in spans for a in range(start, end, n_rows)]

    def _encode_rows(self, interaction) -> Tensor:
        """States of RecBole's rows from the packed encoder: [R, D]; the experts' weights are put in their order too."""
        lists, lengths = interaction[self.model.ITEM_SEQ].numpy(), interaction[self.model.ITEM_SEQ_LEN].numpy()
        order = np.argsort(lengths, kind="stable")
        lengths = lengths[order]
        batch = pack(lists.ravel(), Windows(order * lists.shape[1], lengths, lengths - 1)).to(self.device)
        states, place = self.encode(self.model, batch), torch.from_numpy(order).to(self.device)
        weights = getattr(self.model, "expert_weights", None)
        if weights is not None:
            self.model.expert_weights = torch.empty_like(weights).index_copy_(0, place, weights)
        return torch.empty_like(states).index_copy_(0, place, states)


def row_histories(dataset, interaction, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Row and item of everything a row's user had before the target, which ``repeatable: False`` takes off the ranking.

    Training items, and for the test item the validation item too; not cut at MAX_ITEM_LIST_LENGTH. An item that is
    the positive again stays.
    """
    if PLACE not in interaction:
        raise PRISMError("repeatable: False needs the interactions, and this dataset was saved with rows alone")
    place = interaction[PLACE]
    first = dataset.first_places()[place]
    rows = torch.repeat_interleave(place - first)
    source = torch.arange(len(rows)) - (torch.cumsum(place - first, 0) - place)[rows]
    items = dataset.base_feat[dataset.iid_field][source]
    kept = items != positive[rows]
    return rows[kept], items[kept]
