from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from jaxcog.metrics import ranking
from jaxcog.metrics.retrieval import average_precision

Q, N, D = 9, 80, 6


def people(seed=0, ties=False):
    random = np.random.default_rng(seed)
    draw = random.integers(-1, 2, (Q + N, D)) if ties else random.normal(size=(Q + N, D))
    features = draw.astype(np.float32) + (0.0 if not ties else 0.5)
    ids, cameras = random.integers(0, 12, Q + N), random.integers(0, 3, Q + N)
    return {
        "queries": features[:Q],
        "gallery": features[Q:],
        "query_ids": ids[:Q],
        "gallery_ids": ids[Q:],
        "query_cameras": cameras[:Q],
        "gallery_cameras": cameras[Q:],
    }


def by_sorting(data, metric):
    """The protocol in its simplest form: sort everything, drop junk, look at what remains."""
    distances = ranking.pairwise_distances(data["queries"], data["gallery"], metric)
    precisions, first = [], []
    for q, row in enumerate(distances):
        order = np.argsort(row, kind="stable")
        same_id = data["gallery_ids"][order] == data["query_ids"][q]
        junk = same_id & (data["gallery_cameras"][order] == data["query_cameras"][q])
        hits = same_id[~junk]
        precisions.append(average_precision(hits) if hits.any() else np.nan)
        first.append(int(np.argmax(hits)) if hits.any() else -1)
    return np.array(precisions), np.array(first)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "sq_euclidean"])
def test_equals_sorting_everything_whatever_the_block(metric, ties):
    data = people(ties=ties)
    precisions, first = by_sorting(data, metric)
    for block in (1, 3 * N, ranking.BLOCK):
        result = ranking.rank(**data, metric=metric, block=block)
        np.testing.assert_allclose(result.average_precision, precisions, rtol=1e-12)
        np.testing.assert_array_equal(result.first_match, first)


def test_a_query_without_match_in_another_camera_does_not_count():
    data = people()
    alone = data["query_ids"] == data["query_ids"][0]
    data["gallery_cameras"][data["gallery_ids"] == data["query_ids"][0]] = 7
    data["query_cameras"][alone] = 7
    result = ranking.rank(**data)
    assert np.isnan(result.average_precision[0])
    assert result.counted == Q - alone.sum()
    assert result.cmc(N)[-1] == 1.0
    assert result.mean_average_precision == pytest.approx(np.nanmean(result.average_precision))


def test_without_cameras_every_item_counts():
    data = {name: value for name, value in people().items() if "cameras" not in name}
    with_own = {**data, "gallery": data["queries"], "gallery_ids": data["query_ids"]}
    np.testing.assert_array_equal(ranking.rank(**with_own).cmc(3), [1, 1, 1])
    with pytest.raises(ValueError, match="cameras of both"):
        ranking.rank(**data, query_cameras=np.zeros(Q, int))


def test_from_distances():
    data = people()
    distances = ranking.pairwise_distances(data["queries"], data["gallery"])
    rest = {name: value for name, value in data.items() if name not in ("queries", "gallery")}
    found, cmc = ranking.market1501_metrics(distances, **rest, max_rank=5)
    whole = ranking.rank(**data)
    assert found == whole.mean_average_precision
    np.testing.assert_array_equal(cmc, whole.cmc(5))


def test_nearest_is_the_head_of_the_sorted_list():
    data = people()
    distances = ranking.pairwise_distances(data["queries"], data["gallery"])
    for block in (1, 2 * N):
        found = ranking.nearest(data["queries"], data["gallery"], 7, block=block)
        np.testing.assert_array_equal(found, np.argsort(distances, axis=1, kind="stable")[:, :7])
    assert ranking.nearest(data["queries"], data["gallery"][:4], 7).shape == (Q, 4)


def test_memory_is_bounded_by_the_block():
    random = np.random.default_rng(0)
    queries, gallery = (random.normal(size=(n, 4)).astype(np.float32) for n in (1000, 4000))
    ids = {"query_ids": np.arange(1000) % 50, "gallery_ids": np.arange(4000) % 50}

    def peak(block):
        tracemalloc.start()
        ranking.rank(queries, gallery, **ids, block=block)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    small, all_at_once = peak(40_000), peak(4_000_000)
    assert all_at_once > 16_000_000
    assert small < 1_500_000


def test_bad_shapes_are_refused():
    data = people()
    with pytest.raises(ValueError, match="features must be"):
        ranking.rank(**{**data, "gallery": data["gallery"][:, :3]})
    with pytest.raises(ValueError, match="gallery_ids"):
        ranking.rank(**{**data, "gallery_ids": data["gallery_ids"][:3]})
    with pytest.raises(ValueError, match="gallery_ids"):
        ranking.rank_blocks(
            iter([(0, np.zeros((1, 4)))]), query_ids=np.zeros(1, int), gallery_ids=np.zeros(3, int)
        )
    with pytest.raises(ValueError, match="cosine"):
        ranking.rank(**data, metric="hamming")
