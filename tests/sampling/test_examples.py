"""The windows of latents as rows of `examples`: what each kind promises, on random sparse activations."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.config import SampleConfig
from autointerp.sampling.corpus import Block, Corpus, Reach, blocks_of
from autointerp.sampling.examples import KINDS, Pools, Stream, n_asked, sample_latents
from autointerp.sampling.places import sample_places
from autointerp.sampling.similar import SimilarTiles

SIZE, N_CONTEXTS, N_LATENTS = 24, 10, 5
IS_TEST = np.arange(N_CONTEXTS) % 2 == 1


@st.composite
def worlds(draw):
    """A corpus of random tokens and a dense grid of activations, [latent, context, position]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    density = draw(st.sampled_from([0.005, 0.03, 0.1, 0.4]))
    tokens = rng.integers(0, draw(st.sampled_from([3, 30])), size=(N_CONTEXTS, SIZE)).astype(np.uint32)
    grid = rng.random((N_LATENTS, N_CONTEXTS, SIZE)) < density * rng.uniform(0, 2, (N_LATENTS, 1, 1))
    # The last position of a context and neighbours of equal strength are where mistakes would hide.
    grid[0, 0, SIZE - 1] = True
    values = np.where(grid, rng.choice([0.5, 1.0, 2.0], size=grid.shape), 0.0).astype(np.float32)
    config = SampleConfig(
        window_tokens=draw(st.sampled_from([2, 5, 8, 24])),
        placement=draw(st.sampled_from(["trigger", "tile"])),
        n_train=draw(st.integers(1, 5)),
        n_test=draw(st.integers(1, 5)),
        n_train_random=4,
        n_test_random=4,
        n_train_neighbour=3,
        n_test_neighbour=4,
        n_train_similar=2,
        n_test_similar=3,
        n_test_unread=3,
        similar_pool=draw(st.sampled_from([4, 1000])),
        train_strategy=draw(st.sampled_from(["top", "random", "quantiles", "mixed", "importance"])),
        test_strategy=draw(st.sampled_from(["top_importance", "quantiles"])),
    )
    return Corpus(tokens=tokens, is_test=IS_TEST), values, config


def activations_table(values: np.ndarray) -> pa.Table:
    latent, context, position = np.nonzero(values)
    return pa.table(
        {
            "latent": latent.astype(np.uint32),
            "context": context.astype(np.uint32),
            "position": position.astype(np.uint16),
            "activation": values[latent, context, position],
        }
    )


def cut(table: pa.Table, groups: list[range]) -> list[pa.Table]:
    """Shards that hold whole latents."""
    latent = table.column("latent").to_numpy()
    return [table.filter(pa.array(np.isin(latent, list(group)))) for group in groups]


def sampled(corpus, values, config, groups=(range(N_LATENTS),), per_block=128, seed=3) -> list[dict]:
    """Everything the stage does between reading and writing."""
    shards = cut(activations_table(values), list(groups))
    places = {
        split: sample_places(
            shards,
            n_latents=N_LATENTS,
            contexts_kept=corpus.is_test == (split == "test"),
            context_size=SIZE,
            most=6,
            seed=seed,
        )
        for split in ("train", "test")
    }
    similar = {
        split: SimilarTiles.draw(
            corpus.tokens,
            corpus.contexts_of(split),
            n=config.similar_pool,
            window=config.window_tokens,
            rng=Stream.SIMILAR_POOL.generator(seed, split),
        )
        for split in ("train", "test")
    }
    nearest = np.array([[(i + 1) % N_LATENTS, (i + 2) % N_LATENTS, -1] for i in range(N_LATENTS)])
    rows = []
    for shard in shards:
        for block in blocks_of(shard, per_block, 10**6):
            table = sample_latents(
                block,
                nearest[block.latent],
                corpus=corpus,
                config=config,
                seed=seed,
                pools=Pools(places=places, similar=similar),
            )
            rows += table.to_pylist()
    return rows


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_what_each_kind_promises(world):
    corpus, values, config = world
    window = config.window_tokens
    covered = np.zeros((N_LATENTS, N_CONTEXTS, SIZE), dtype=int)
    rows = sampled(*world)
    assert {row["latent"] for row in rows if row["kind"] == "activating"} == set(
        np.flatnonzero(active_in_windows(values, config).any(axis=1))
    )
    for row in rows:
        latent, context = row["latent"], row["context"]
        place = slice(row["start"], row["start"] + window)
        assert 0 <= row["start"] <= SIZE - window
        assert row["tokens"] == corpus.tokens[context, place].tolist()
        truth = values[latent, context, place]
        assert row["activations"] == truth.tolist()
        assert row["max_activation"] == truth.max()
        assert row["split"] == ("test" if IS_TEST[context] else "train")
        assert (row["decile"] is not None) == (row["kind"] == "activating")
        assert (row["source_latent"] is not None) == (row["kind"] == "neighbour")
        if row["kind"] == "activating":
            assert truth.any()
        elif row["kind"] != "unread":
            assert not truth.any()
        if row["kind"] == "neighbour":
            assert row["source_latent"] in ((latent + 1) % N_LATENTS, (latent + 2) % N_LATENTS)
            assert values[row["source_latent"], context, place].any()
        if row["kind"] != "unread":
            covered[latent, context, place] += 1
    assert covered.max() <= 1, "windows of a latent never overlap, whatever their kinds"


def active_in_windows(values: np.ndarray, config: SampleConfig) -> np.ndarray:
    """Whether a latent is active where a window may lie, [latent, context]."""
    reach = SIZE // config.window_tokens * config.window_tokens if config.placement == "tile" else SIZE
    return values[:, :, :reach].any(axis=2)


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_order_numbers_and_how_many(world):
    _, _, config = world
    rows = sampled(*world)
    order = [(r["latent"], r["split"] == "test", KINDS.index(r["kind"])) for r in rows]
    assert order == sorted(order)
    for latent, mine in itertools.groupby(rows, key=lambda r: r["latent"]):
        mine = list(mine)
        assert [r["example"] for r in mine] == list(range(len(mine))), latent
        for split, kind in itertools.product(("train", "test"), KINDS):
            n = sum(r["split"] == split and r["kind"] == kind for r in mine)
            assert n <= n_asked(config, split, kind)
            if kind == "unread":
                assert n == n_asked(config, split, kind)


@given(worlds(), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_neither_shards_nor_blocks_nor_other_kinds_change_a_window(world, split_at, per_block):
    corpus, values, config = world
    whole = sampled(*world)
    assert sampled(*world, [range(split_at), range(split_at, N_LATENTS)], per_block) == whole
    fewer = config.model_copy(update={"n_train_similar": 0, "n_test_similar": 0, "n_train": config.n_train})
    kept = ("activating", "random", "neighbour", "unread")

    def of_those(rows):
        return [{k: v for k, v in r.items() if k != "example"} for r in rows if r["kind"] in kept]

    assert of_those(sampled(corpus, values, fewer)) == of_those(whole)


def lay(grid: dict[tuple[int, int], float]) -> Block:
    places = sorted(grid)
    return Block(
        latent=np.array([7]),
        row=np.zeros(len(places), dtype=np.int64),
        context=np.array([c for c, _ in places]),
        position=np.array([p for _, p in places]),
        activation=np.array([grid[p] for p in places], dtype=np.float32),
    )


def one(config: SampleConfig, corpus: Corpus, acts: Block, pools: Pools, neighbours=()):
    nearest = np.array([[*neighbours, -1]])
    return sample_latents(acts, nearest, corpus=corpus, config=config, seed=0, pools=pools).to_pylist()


def test_neighbours_take_turns_the_nearest_first():
    corpus = Corpus(tokens=np.zeros((8, 16), np.uint32), is_test=np.arange(8) > 0)
    places = np.full((8, 3), -1)
    places[3] = [1 * 16 + 8, 2 * 16 + 8, 3 * 16 + 8]
    places[5] = [4 * 16 + 8, 5 * 16 + 8, -1]
    config = SampleConfig(window_tokens=8, n_test_neighbour=4, n_test_random=0, n_test_similar=0)
    # Latent 7 itself is active at neighbour 3's first place: its second one takes that turn.
    acts = lay({(1, 8): 1.0})
    rows = one(config, corpus, acts, Pools(places={"test": places}), [3, 5])
    near = [(r["source_latent"], r["context"]) for r in rows if r["kind"] == "neighbour"]
    assert near == [(3, 2), (5, 4), (3, 3), (5, 5)]


def test_unread_windows_tell_the_truth_and_are_spread():
    corpus = Corpus(tokens=np.zeros((400, 16), np.uint32), is_test=np.arange(400) > 0)
    acts = lay({(c, 5): float(c) for c in range(1, 400)})
    config = SampleConfig(
        window_tokens=8, n_test=1, n_test_random=0, n_test_unread=300, n_test_similar=0, n_test_neighbour=0
    )
    rows = [r for r in one(config, corpus, acts, Pools()) if r["kind"] == "unread"]
    assert len(rows) == len({(r["context"], r["start"]) for r in rows}) == 300
    for row in rows:
        assert row["max_activation"] == (row["context"] if row["start"] <= 5 else 0.0)
    # Of the 9 starts 6 hold position 5.
    active = sum(r["max_activation"] > 0 for r in rows)
    assert 160 < active < 240
    assert len({r["context"] for r in rows}) > 150


def test_places_are_a_bounded_fair_draw():
    rng = np.random.default_rng(0)
    values = (rng.random((3, 400, 50)) < np.array([0.0002, 0.01, 0.3])[:, None, None]).astype(np.float32)
    contexts_kept = np.arange(400) % 2 == 0
    places = sample_places(
        [activations_table(values)],
        n_latents=4,
        contexts_kept=contexts_kept,
        context_size=50,
        most=20,
        seed=1,
    )
    assert places.shape == (4, 20)
    assert (places[3] == -1).all(), "a latent that is never active"
    for latent in range(3):
        found = places[latent][places[latent] >= 0]
        there = int(values[latent, contexts_kept].sum())
        assert len(found) == len(set(found.tolist())) == min(there, 20)
        assert contexts_kept[found // 50].all()
        assert values[latent, found // 50, found % 50].all()
    # Over many seeds every third of the text is drawn alike.
    thirds = np.zeros(3)
    for seed in range(200):
        drawn = sample_places(
            [activations_table(values)],
            n_latents=4,
            contexts_kept=contexts_kept,
            context_size=50,
            most=20,
            seed=seed,
        )[2]
        thirds += np.bincount(drawn // 50 * 3 // 400, minlength=3)
    assert np.abs(thirds / thirds.sum() - 1 / 3).max() < 0.03


@pytest.mark.parametrize("kind", ["similar", "neighbour"])
def test_kinds_that_were_not_asked_are_not_there(kind):
    corpus = Corpus(tokens=np.zeros((8, 16), np.uint32), is_test=np.arange(8) > 3)
    rows = one(SampleConfig(window_tokens=8), corpus, lay({(1, 8): 1.0, (5, 2): 1.0}), Pools())
    assert rows
    assert kind not in {row["kind"] for row in rows}


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 5), st.integers(1, 20))
def test_blocks_are_the_table_cut_between_latents(sizes, most_latents, most_rows):
    latent = np.repeat(np.arange(len(sizes), dtype=np.uint32) * 3, sizes)
    n = len(latent)
    table = pa.table(
        {
            "latent": latent,
            "context": np.arange(n, dtype=np.uint32),
            "position": np.arange(n, dtype=np.uint16),
            "activation": np.arange(n, dtype=np.float32),
        }
    )
    blocks = list(blocks_of(table, most_latents, most_rows))
    assert [latent for block in blocks for latent in block.latent] == list(np.unique(latent))
    assert [c for block in blocks for c in block.context] == list(range(n))
    assert [block.latent[r] for block in blocks for r in block.row] == list(latent)
    for block in blocks:
        assert len(block) <= most_latents
        assert len(block) == 1 or len(block.row) <= most_rows


@given(worlds(), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_of_a_sample_only_what_is_known_is_called_silent(world, n_known):
    corpus, values, config = world
    order = np.random.default_rng(0).permutation(N_CONTEXTS).astype(np.uint64)
    through = np.full((N_LATENTS, 2), n_known, dtype=np.uint64)
    through[1:] += 2
    known = Corpus(tokens=corpus.tokens, is_test=IS_TEST, reach=Reach(priority=order, through=through))
    for row in sampled(known, values, config):
        if row["kind"] != "activating":
            assert order[row["context"]] <= through[row["latent"], 0]
