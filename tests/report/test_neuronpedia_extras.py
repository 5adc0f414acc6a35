"""What an export carries beside texts and labels: scores, nearest latents, histograms, vectors."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autointerp.artifacts import DATASETS, write_shard
from autointerp.artifacts.schemas import table_of
from autointerp.engine.importing import import_run
from autointerp.errors import UserError
from autointerp.report.exchange import neuronpedia_export, neuronpedia_features
from autointerp.report.exchange import neuronpedia_import as neuronpedia
from autointerp.run import open_run
from tests.report.neuronpedia_files import IDS, activation, dump, feature, load
from tests.synthetic import make_run

FEATURE_FIELDS = {
    *("modelId", "layer", "index", "sourceSetName", "maxActApprox", "hasVector", "vector", "hookName"),
    *("vectorDefaultSteerStrength", "neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero"),
    *("freq_hist_data_bar_heights", "freq_hist_data_bar_values"),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    *("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1"),
    *("correlated_features_indices", "correlated_features_pearson", "correlated_features_l1"),
    *("topkCosSimIndices", "topkCosSimValues", "decoder_weights_dist"),
}
ACTIVATION_FIELDS = {
    *("id", "tokens", "values", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex", "minValue"),
    *("creatorId", "dataSource", "dataIndex", "dfaValues", "dfaTargetIndex", "dfaMaxValue", "lossValues"),
    *("logitContributions", "binMin", "binMax", "binContains", "qualifyingTokenIndex"),
}
EXPLANATION_FIELDS = {
    *("id", "modelId", "layer", "index", "description", "authorId", "embedding", "triggeredById"),
    *("typeName", "explanationModelName", "notes", "createdAt"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run whose latents have neighbours, and its export."""
    root = make_run(tmp_path_factory.mktemp("runs") / "run")
    dataset = open_run(root).directory.dataset("latents")
    rows = dataset.read().to_pylist()
    for row in rows:
        row["neighbours"] = [{"latent": (row["latent"] + 1) % 12, "cosine": 0.5}]
    (path,) = dataset.shards
    path.unlink()
    write_shard(path, table_of("latents", rows), DATASETS["latents"])
    out = root.parent / "out"
    options = neuronpedia_export.ExportOptions(**IDS, n_top=3)
    counts = neuronpedia_export.export_neuronpedia(root, out, options)
    return open_run(root), out, out / "v1" / "tiny" / "0-test-res", counts


def test_every_field_of_the_public_form_is_there(exported):
    _, _, folder, _ = exported
    for part, fields in (
        ("features", FEATURE_FIELDS),
        ("activations", ACTIVATION_FIELDS),
        ("explanations", EXPLANATION_FIELDS),
    ):
        rows = load(folder, part)
        assert rows
        assert all(set(row) == fields for row in rows), part


def test_what_a_run_knows_is_filled(exported):
    run, _, folder, _ = exported
    latents = {row["latent"]: row for row in run.table("latents").to_pylist()}
    for row in load(folder, "features"):
        latent = latents[int(row["index"])]
        assert row["frac_nonzero"] == latent["density"]
        assert sum(row["freq_hist_data_bar_heights"]) == latent["n_active_tokens"]
        assert row["topkCosSimIndices"] == [(latent["latent"] + 1) % 12]
        assert len(row["pos_str"]) == len(latent["top_logits"] or [])
        assert row["neg_values"] == pytest.approx([x["logit"] for x in latent["bottom_logits"] or []])
    assert {row["dataSource"] for row in load(folder, "activations")} == {"synthetic.jsonl"}


def test_scores_are_of_the_exported_labels_and_come_back(exported, tmp_path):
    run, out, folder, counts = exported
    scores = load(folder, "explanation_scores")
    labels = {row["id"]: row for row in load(folder, "explanations")}
    real = [
        row
        for row in run.table("scores").to_pylist()
        if row["control"] is None and row["status"] == "ok" and row["explanation"] != "none"
    ]
    assert len(scores) == len(real) == counts["explanation_scores"] > 20
    assert sorted(row["value"] for row in scores) == sorted(row["value"] for row in real)
    assert {row["explanationId"] for row in scores} <= set(labels)
    assert {row["explanationScoreTypeName"] for row in scores} == {
        "autointerp_detection",
        "autointerp_fuzzing",
        "autointerp_simulation",
    }
    details = json.loads(scores[0]["jsonDetails"])
    assert details["ci_low"] <= scores[0]["value"] <= details["ci_high"]
    found = neuronpedia.read_labels(folder)[1]
    carried = [
        (x.latent, s["type"], s["value"])
        for rows in found.values()
        for x in rows
        for s in x.extra.get("scores", ())
    ]
    wanted = [
        (int(labels[row["explanationId"]]["index"]), row["explanationScoreTypeName"], row["value"])
        for row in scores
    ]
    assert sorted(carried) == sorted(wanted)
    config = import_run(
        tmp_path / "back",
        lambda root: neuronpedia.import_neuronpedia(out, root, neuronpedia.NeuronpediaOptions()),
    ).config
    assert config.explain.explainers
    back = open_run(tmp_path / "back")
    near = {row["latent"]: row["neighbours"] for row in back.table("latents").to_pylist()}
    assert near[5] == [{"latent": 6, "cosine": 0.5}]
    options = neuronpedia_export.ExportOptions(n_top=3)
    neuronpedia_export.export_neuronpedia(tmp_path / "back", tmp_path / "again", options)
    second = tmp_path / "again" / "v1" / "tiny" / "0-test-res"

    def told(rows, by_id):
        return sorted(
            (
                by_id[row["explanationId"]]["index"],
                by_id[row["explanationId"]]["typeName"],
                *(row[k] for k in ("value", "explanationScoreTypeName", "jsonDetails")),
            )
            for row in rows
        )

    their_labels = {row["id"]: row for row in load(second, "explanations")}
    assert told(load(second, "explanation_scores"), their_labels) == told(scores, labels)
    again = load(second, "features")
    first = {row["index"]: row for row in load(folder, "features")}
    for row in again:
        assert row["topkCosSimIndices"] == first[row["index"]]["topkCosSimIndices"]
        # Listed texts are no fair sample of a latent's activations: no histogram is better than a wrong one.
        assert row["freq_hist_data_bar_heights"] == []
    binned = [row["binContains"] for row in load(second, "activations") if row["binMin"] != -1]
    assert set(binned) <= {None}


def test_neighbours_that_are_no_latents_are_refused(tmp_path):
    dump(tmp_path / "x" / "activations" / "batch-0.jsonl.gz", [activation(0, ["a", "b"], [0.0, 1.0])])
    bad = feature(0, topkCosSimIndices=[1, 2], topkCosSimValues=[0.5])
    dump(tmp_path / "x" / "features" / "batch-0.jsonl.gz", [bad])
    with pytest.raises(UserError, match="topkCosSimIndices"):
        neuronpedia.import_neuronpedia(tmp_path / "x", tmp_path / "run", neuronpedia.NeuronpediaOptions())


def test_vectors_and_histograms_of_logits_with_the_subject():
    """The logits of latent i are its decoder direction through the unembedding, centred."""
    generator = torch.Generator().manual_seed(0)
    decoder, unembedding = torch.randn(5, 8, generator=generator), torch.randn(8, 300, generator=generator)
    decoder[3] = 0
    opened = neuronpedia_features.Opened.__new__(neuronpedia_features.Opened)
    opened._dictionary = SimpleNamespace(
        hook_point_out="blocks.0.hook_resid_post", decoder_directions=lambda latents: decoder[latents]
    )
    opened._subject = SimpleNamespace(
        decoder_writes_to_residual=lambda hook: True,
        unembedding=lambda: (unembedding, None),
        to_residual=lambda hook, directions: directions,
        final_norm_centres=False,
        tokenizer=range(300),
    )
    known = list(opened.of([0, 3, 4]))
    assert known[0].vector == pytest.approx(decoder[0].tolist(), rel=1e-5)
    logits = (decoder[4] @ unembedding).numpy()
    heights, edges = np.histogram(logits - logits.mean(), bins=neuronpedia_features.N_BARS)
    assert known[2].logit_heights == heights.tolist()
    assert sum(known[2].logit_heights) == 300
    assert known[2].logit_values == pytest.approx(((edges[1:] + edges[:-1]) / 2).tolist(), rel=1e-4, abs=1e-5)
    assert known[1].logit_heights == []
