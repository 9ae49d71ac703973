from __future__ import annotations

import numpy as np
import pytest

from jaxcog.data import few_shot
from jaxcog.data.few_shot import EpisodeSource, FreshEpisodes, Pool
from jaxcog.errors import DataError


def pool_of(counts: dict[int, int], length: int = 6) -> Pool:
    label = np.concatenate([np.full(n, c) for c, n in counts.items()])
    count = len(label)
    segments = np.full((count, 2, 2), -1, np.float32)
    segments[:, 0] = 1, 3
    return Pool(
        video=np.arange(count),
        label=label,
        mask=np.tile(np.float32([0, 1, 1, 0, 0, 0]), (count, 1))[:, :length],
        segments=segments,
        duration=np.full(count, float(length), np.float32),
        names=[f"v_{i}" for i in range(count)],
        class_names=("a", "b", "c"),
        repeats=np.where(np.arange(count) == 0, 5, 1),
    )


def test_episodes_are_of_one_class_and_the_query_is_no_support():
    pool = pool_of({0: 4, 2: 5})
    draw = few_shot.random_draw(pool, 3, seed=0)
    seen = set()
    for i in range(60):
        query, support = draw(i)
        assert len({int(pool.label[row]) for row in (query, *support)}) == 1
        assert len({query, *support}) == 4
        seen.add(query)
    assert seen == set(range(9))
    again = few_shot.random_draw(pool, 3, seed=0)
    assert [again(i)[0] for i in range(9)] == [draw(i)[0] for i in range(9)]


def test_released_sampling_repeats_videos():
    pool = pool_of({0: 4})
    draw = few_shot.random_draw(pool, 3, seed=0, released=True)
    drawn = [draw(i) for i in range(80)]
    assert any(query in support or len(set(support)) < 3 for query, support in drawn)
    # Video 0 has five instances, so it takes five of eight places as a query, and all four of the
    # first places from which supports are drawn.
    assert np.mean([query == 0 for query, _ in drawn]) > 0.4
    assert {int(row) for _, support in drawn for row in support} == {0}


def test_every_video_is_a_query_once_each_time():
    pool = pool_of({0: 3, 1: 4})
    draw = few_shot.every_query(pool, 2, seed=0)
    drawn = [draw(i) for i in range(14)]
    assert [query for query, _ in drawn] == [*range(7), *range(7)]
    assert any(set(drawn[i][1]) != set(drawn[i + 7][1]) for i in range(7))
    inputs = np.arange(7.0)[:, None, None] * np.ones((1, 6, 2))
    source = EpisodeSource(inputs.astype(np.float32), pool, draw, 14, judged=True)
    record = source.take(np.array([1, 8]))
    np.testing.assert_array_equal(record["repeat"], [0, 1])
    np.testing.assert_array_equal(record["query"][:, 0, 0], [1, 1])
    assert record["support"].shape == (2, 2, 6, 2)
    np.testing.assert_array_equal(record["support_mask"][0, 0], [0, 1, 1, 0, 0, 0])
    assert source.name_of(8).startswith("a: query v_1, supports v_")
    trimmed = EpisodeSource(inputs, pool, draw, 14, trimmed=True)[0]
    assert trimmed["support_mask"].min() == 1


def test_training_never_draws_an_episode_twice():
    sampler = FreshEpisodes(100, 8, seed=3)
    indices = np.concatenate([sampler.indices(step) for step in range(40)])
    assert len(set(indices)) == 320
    other = FreshEpisodes(100, 8, seed=4).indices(0)
    assert not set(other) & set(indices)


def test_classes_with_too_few_videos_are_named():
    with pytest.raises(DataError, match=r"fewer than 4 videos.*: b \(2\)\. Lower data\.shots"):
        few_shot.check_pool(pool_of({0: 4, 1: 2}), 3, "test")
    with pytest.raises(DataError, match="no video"):
        few_shot.check_pool(pool_of({0: 1}).select(np.zeros(0, int)), 1, "test")
