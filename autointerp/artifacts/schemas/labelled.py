"""Datasets of the stages `sample`, `explain` and `score`: windows, labels, answers of the judge, scores."""

from __future__ import annotations

import pyarrow as pa

from autointerp.artifacts.schemas.spec import F32_LIST, LATENT, TOKENS, DatasetSpec, column

KINDS = ("activating", "random", "similar", "neighbour", "unread", "mismarked", "decoy")
"""Kinds of judged items. Two exist in `judgements` only: `mismarked`, an activating window whose
marks stand on tokens where the latent is silent, and `decoy`, a text of the scorer's own."""

_BY_KIND = pa.struct([pa.field(kind, pa.float32()) for kind in KINDS[1:]])

_EXPLANATION = column(
    "explanation", pa.string(), "Id of the explanation, unique within its latent, as in `default/0`."
)
_USAGE = [
    column("model", pa.string(), "Language model that answered; null where none was asked.", True),
    column("prompt_tokens", pa.uint64(), "Tokens sent; null where unknown.", True),
    column("completion_tokens", pa.uint64(), "Tokens generated; null where unknown.", True),
    column("cost_usd", pa.float64(), "Price in US dollars; null where unknown, 0 for local models.", True),
    column("seconds", pa.float64(), "Wall-clock seconds of its requests; null where none.", True),
]

EXAMPLES = DatasetSpec(
    name="examples",
    row="one window of text for one latent",
    sorted_by=("latent", "example"),
    rows_per_group=2_048,
    schema=pa.schema(
        [
            LATENT,
            column("example", pa.uint32(), "Index of the window within its latent, from 0."),
            column("split", pa.string(), "`train` (for explaining) or `test` (for scoring)."),
            column(
                "kind",
                pa.string(),
                "`activating`, or why it was chosen as a window in which the latent is never active: "
                "`random`; `neighbour` (a nearby latent fires); `similar` (looks like its activating windows). "
                "`unread` windows are drawn without looking: the latent may be active in them.",
            ),
            column(
                "source_latent",
                pa.uint32(),
                "The nearby latent that fires (kind `neighbour`); else null.",
                True,
            ),
            column(
                "decile",
                pa.uint8(),
                "Decile of `max_activation` among the latent's windows of that split, 1 weakest to 10 strongest; "
                "null for windows that were not drawn as activating.",
                True,
            ),
            column("context", pa.uint32(), "Context the window lies in."),
            column("start", pa.uint16(), "Position of its first token in the context."),
            column("tokens", TOKENS, "Token ids of the window."),
            column("activations", F32_LIST, "Activation at each token, 0 where silent or masked."),
            column("max_activation", pa.float32(), "Largest activation in the window."),
        ]
    ),
)

EXPLANATIONS = DatasetSpec(
    name="explanations",
    row="one proposed explanation of one latent",
    sorted_by=("latent", "explanation"),
    rows_per_group=4_096,
    folders="EXPLAINER",
    schema=pa.schema(
        [
            LATENT,
            _EXPLANATION,
            column("explainer", pa.string(), "Name of the explainer in the run's configuration."),
            column(
                "control",
                pa.string(),
                "Null for a real explanation; `shuffled` for the explanation of another latent.",
                True,
            ),
            column("source_latent", pa.uint32(), "The latent a shuffled explanation was taken from.", True),
            column("text", pa.string(), "The explanation; null unless status is `ok`.", True),
            column(
                "status",
                pa.string(),
                "`ok`, `failed` (no answer, or not what was asked) or `undetermined` (nothing can be said).",
            ),
            column("reason", pa.string(), "Why not `ok`; null if it is.", True),
            *_USAGE,
            column("details", pa.string(), "JSON of what the explainer records beside the text."),
        ]
    ),
)

JUDGEMENTS = DatasetSpec(
    name="judgements",
    row="one judged window (or marked token list) for one explanation and scorer",
    sorted_by=("latent", "explanation", "scorer", "example"),
    rows_per_group=16_384,
    folders="SCORER/EXPLAINER",
    schema=pa.schema(
        [
            LATENT,
            _EXPLANATION,
            column("scorer", pa.string(), "Name of the scorer in the run's configuration."),
            column("example", pa.uint32(), "The judged window in `examples`."),
            column(
                "kind",
                pa.string(),
                "Kind of the judged item: that of the window, `mismarked` (fuzzing), or `decoy` (a text of the scorer's own).",
            ),
            column("decile", pa.uint8(), "Activation decile of the window; null if not activating.", True),
            column(
                "request", pa.string(), "Hash of the request that judged it; null if none was sent.", True
            ),
            column("position_in_request", pa.uint16(), "Its place among the items of that request.", True),
            column("label", pa.bool_(), "The truth; null for scorers that predict activations.", True),
            column("prediction", pa.bool_(), "The judge's decision; null if none.", True),
            column("probability", pa.float32(), "The judge's probability of yes; null if none.", True),
            column(
                "log_odds",
                pa.float32(),
                "Evidence for yes in nats: what AUROC is computed from; null if none.",
                True,
            ),
            column(
                "predicted_activations",
                F32_LIST,
                "Simulated activation at each token of the window; null except for simulation.",
                True,
            ),
            column(
                "status",
                pa.string(),
                "`ok`, `unparsed` (the reply is not what was asked) or `error` (no reply).",
            ),
            column("reason", pa.string(), "Why not `ok`; null if it is.", True),
        ]
    ),
)

_N = "of the judged items, status `ok` only"
SCORES = DatasetSpec(
    name="scores",
    row="one latent x explanation x scorer",
    sorted_by=("latent", "explanation", "scorer"),
    rows_per_group=16_384,
    folders="SCORER/EXPLAINER",
    schema=pa.schema(
        [
            LATENT,
            _EXPLANATION,
            column("explainer", pa.string(), "Explainer of the explanation."),
            column("control", pa.string(), "As in `explanations`.", True),
            column("scorer", pa.string(), "Name of the scorer in the run's configuration."),
            column("metric", pa.string(), "Which column is this scorer's headline number."),
            column("value", pa.float32(), "The headline number; null if undefined.", True),
            column("ci_low", pa.float32(), "Lower end of its 95% interval; null if undefined.", True),
            column("ci_high", pa.float32(), "Upper end of its 95% interval; null if undefined.", True),
            column("chance", pa.float32(), "What a judge that guesses would get.", True),
            column(
                "status",
                pa.string(),
                "`ok`, `failed` (judged, but the number is undefined) or `unexplained` (nothing to judge).",
            ),
            column("reason", pa.string(), "Why not `ok`; null if it is.", True),
            column("n_examples", pa.uint32(), "Items sent to the judge."),
            column(
                "coverage", pa.float32(), "Share of items with status `ok`; null if there were none.", True
            ),
            column("tp", pa.uint32(), f"True positives {_N}; null where nothing is decided.", True),
            column("fp", pa.uint32(), f"False positives {_N}; null likewise.", True),
            column("tn", pa.uint32(), f"True negatives {_N}; null likewise.", True),
            column("fn", pa.uint32(), f"False negatives {_N}; null likewise.", True),
            column("n_unparsed", pa.uint32(), "Items whose reply could not be read."),
            column("n_error", pa.uint32(), "Items without a reply."),
            column("accuracy", pa.float32(), "(tp + tn) / decided; null if nothing was decided.", True),
            column(
                "balanced_accuracy",
                pa.float32(),
                "Mean of sensitivity and specificity; null unless both classes were decided.",
                True,
            ),
            column(
                "worst_case_accuracy",
                pa.float32(),
                "(tp + tn) / all items: every unparsed or failed item counted as wrong.",
                True,
            ),
            column("f1", pa.float32(), "2 tp / (2 tp + fp + fn); null if that is 0 / 0.", True),
            column(
                "auroc",
                pa.float32(),
                "Area under the ROC curve of `log_odds`; null without evidence or with one class.",
                True,
            ),
            column(
                "sensitivity_by_decile",
                F32_LIST,
                "Share of activating items called yes, for deciles 1 to 10; null where there are none.",
                True,
            ),
            column(
                "specificity_by_kind", _BY_KIND, "Share of items called no, by kind; null likewise.", True
            ),
            column(
                "ev_correlation",
                pa.float32(),
                "Simulation: Pearson correlation of simulated and true activations over all tokens read, pooled, "
                "uncalibrated; null if either is constant.",
                True,
            ),
            column(
                "activation_scale",
                pa.uint8(),
                "Simulation: the largest number the judge may say, 10 or 9 (see the simulation page).",
                True,
            ),
            column("n_tokens", pa.uint32(), "Simulation: tokens compared.", True),
            column(
                "peer_metric",
                pa.string(),
                "Presets: name of the number the published tool would report; null for other scorers.",
                True,
            ),
            column(
                "peer_value",
                pa.float32(),
                "Presets: that number, beside the corrected one in `value`; null where the tool has none.",
                True,
            ),
            *_USAGE,
            column("details", pa.string(), "JSON of what the scorer records beside the numbers."),
        ]
    ),
)
