"""Every dataset of a run directory and the meaning of its columns.

These are public contracts: other tools read the files without this package. A column is never
renamed or given another meaning; an undefined number is null (the reason stands beside it), never 0.
The reference page of the documentation is generated from this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

KINDS = ("activating", "random", "similar", "neighbour", "unread", "mismarked", "decoy")
"""Kinds of judged items. Two exist in `judgements` only: `mismarked`, an activating window whose
marks stand on tokens where the latent is silent, and `decoy`, a text of the scorer's own."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One dataset: its name, what a row is, its columns, and how its shards are laid out."""

    name: str
    row: str
    """What one row is, in a phrase."""
    schema: pa.Schema
    sorted_by: tuple[str, ...]
    """Columns every shard is sorted by; shards follow one another in that order."""
    rows_per_group: int
    """Rows per Parquet row group: the least a reader of a few latents has to read."""
    folders: str = ""
    """Folders below the dataset's own, as in `SCORER/EXPLAINER`; empty where shards lie directly."""
    compression: str = "zstd"
    encodings: Mapping[str, str] = field(default_factory=dict)
    """Parquet encodings of numeric columns, all of them or none; by default dictionaries, as for text."""


def _column(name: str, kind: pa.DataType, description: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


_F32_LIST = pa.list_(pa.field("item", pa.float32(), nullable=True))
_TOKENS = pa.list_(pa.field("item", pa.uint32(), nullable=False))
_TOP_TOKENS = pa.list_(
    pa.field(
        "item",
        pa.struct(
            [
                pa.field("token", pa.uint32(), nullable=False),
                pa.field("n_active", pa.uint64(), nullable=False),
                pa.field("total", pa.float64(), nullable=False),
                pa.field("max", pa.float32(), nullable=False),
            ]
        ),
        nullable=False,
    )
)
_LOGITS = pa.list_(
    pa.field(
        "item",
        pa.struct(
            [
                pa.field("token", pa.uint32(), nullable=False),
                pa.field("logit", pa.float32(), nullable=False),
            ]
        ),
        nullable=False,
    )
)
_NEIGHBOURS = pa.list_(
    pa.field(
        "item",
        pa.struct(
            [
                pa.field("latent", pa.uint32(), nullable=False),
                pa.field("cosine", pa.float32(), nullable=False),
            ]
        ),
        nullable=False,
    )
)
_BY_KIND = pa.struct([pa.field(kind, pa.float32()) for kind in KINDS[1:]])

_LATENT = _column("latent", pa.uint32(), "Index of the latent in its dictionary.")
_EXPLANATION = _column(
    "explanation", pa.string(), "Id of the explanation, unique within its latent, as in `default/0`."
)
_USAGE = [
    _column("model", pa.string(), "Language model that answered; null where none was asked.", True),
    _column("prompt_tokens", pa.uint64(), "Tokens sent; null where unknown.", True),
    _column("completion_tokens", pa.uint64(), "Tokens generated; null where unknown.", True),
    _column("cost_usd", pa.float64(), "Price in US dollars; null where unknown, 0 for local models.", True),
    _column("seconds", pa.float64(), "Wall-clock seconds of its requests; null where none.", True),
]

VOCABULARY = DatasetSpec(
    name="vocabulary",
    row="one token of the subject's tokenizer",
    sorted_by=("token",),
    rows_per_group=65_536,
    schema=pa.schema(
        [
            _column("token", pa.uint32(), "Token id."),
            _column(
                "text",
                pa.string(),
                "Readable form: the text where the token is whole UTF-8, else its bytes as `\\xHH`.",
            ),
            _column("bytes", pa.binary(), "Exact bytes of the token; null for special tokens.", True),
            _column("special", pa.bool_(), "Whether the tokenizer calls it special (BOS, EOS, padding...)."),
            _column("n_occurrences", pa.uint64(), "Unmasked positions of the cached corpus that hold it."),
            _column("n_occurrences_train", pa.uint64(), "Of those, the ones in train documents."),
        ]
    ),
)

CONTEXTS = DatasetSpec(
    name="contexts",
    row="one tokenised context",
    sorted_by=("context",),
    rows_per_group=512,
    schema=pa.schema(
        [
            _column("context", pa.uint32(), "Index of the context, from 0."),
            _column(
                "document",
                pa.uint64(),
                "Index of the document of its first token, in the order of the corpus. A context may hold "
                "several documents, always of one split.",
            ),
            _column("split", pa.string(), "`train` or `test`, by hash of the documents' text."),
            _column("tokens", _TOKENS, "Token ids, BOS and separators included."),
        ]
    ),
)

ACTIVATIONS = DatasetSpec(
    name="activations",
    row="one non-zero activation at an unmasked position",
    sorted_by=("latent", "context", "position"),
    rows_per_group=32_768,
    encodings={
        "latent": "DELTA_BINARY_PACKED",
        "context": "DELTA_BINARY_PACKED",
        "position": "BYTE_STREAM_SPLIT",
        "activation": "BYTE_STREAM_SPLIT",
    },
    schema=pa.schema(
        [
            _LATENT,
            _column("context", pa.uint32(), "Context it was seen in."),
            _column("position", pa.uint16(), "Position in that context, from 0."),
            _column("activation", pa.float32(), "Activation of the latent, in the dictionary's own units."),
        ]
    ),
)

RESERVOIR = DatasetSpec(
    name="reservoir",
    row="one latent in one split, of a cache with `[cache.reservoir]` (else there is no such dataset)",
    sorted_by=("latent",),
    rows_per_group=131_072,
    schema=pa.schema(
        [
            _LATENT,
            _column("split", pa.string(), "`train` or `test`."),
            _column("n_contexts", pa.uint64(), "Contexts in which it is active."),
            _column("n_random", pa.uint64(), "Of these, contexts in the uniform sample."),
            _column("n_kept", pa.uint64(), "Of these, contexts whose activations are in `activations`."),
            _column(
                "known_through",
                pa.uint64(),
                "Contexts whose priority (a hash of seed and context) is at most this are known: the latent is "
                "active in them where `activations` says so, and nowhere else. Null: every context is known.",
                True,
            ),
        ]
    ),
)

LATENTS = DatasetSpec(
    name="latents",
    row="one latent of the dictionary, dead ones included",
    sorted_by=("latent",),
    rows_per_group=512,
    schema=pa.schema(
        [
            _LATENT,
            _column("n_active_tokens", pa.uint64(), "Unmasked positions at which it is active."),
            _column("n_active_contexts", pa.uint64(), "Contexts in which it is active at least once."),
            _column("density", pa.float64(), "`n_active_tokens` over all unmasked positions."),
            _column("max_activation", pa.float32(), "Largest activation; null if dead.", True),
            _column("mean_activation", pa.float32(), "Mean over active positions; null if dead.", True),
            _column(
                "quantiles",
                _F32_LIST,
                "Quantiles 0, 0.1, ..., 1 of its non-zero activations (11 values), exact, or with `[cache.reservoir]` "
                "within 1/128; null if dead.",
                True,
            ),
            _column(
                "top_tokens",
                _TOP_TOKENS,
                "Tokens it is active on in the train documents (so that a label made from them can be judged on "
                "the test windows), by summed activation, largest first: `token`, `n_active` positions, `total` "
                "and `max` activation.",
            ),
            _column(
                "top_logits",
                _LOGITS,
                "Tokens its decoder direction promotes most through the final norm's scale and the "
                "unembedding; null where the hook point does not write to the residual stream.",
                True,
            ),
            _column("bottom_logits", _LOGITS, "Tokens it demotes most, lowest first; null likewise.", True),
            _column(
                "neighbours",
                _NEIGHBOURS,
                "The `cache.n_neighbours` other latents whose decoder directions have the largest cosine with its "
                "own, largest first (in the residual stream where the hook point writes to it); null without a "
                "decoder, for a direction of zeros, and if none were asked.",
                True,
            ),
            _column(
                "status",
                pa.string(),
                "`ok`, `dead` (never active), `rare` (active in fewer than `cache.rare_below_contexts` contexts of the train or of the test split) "
                "or `dense` (active on more than `cache.dense_above` of tokens).",
            ),
        ]
    ),
)

EXAMPLES = DatasetSpec(
    name="examples",
    row="one window of text for one latent",
    sorted_by=("latent", "example"),
    rows_per_group=2_048,
    schema=pa.schema(
        [
            _LATENT,
            _column("example", pa.uint32(), "Index of the window within its latent, from 0."),
            _column("split", pa.string(), "`train` (for explaining) or `test` (for scoring)."),
            _column(
                "kind",
                pa.string(),
                "`activating`, or why it was chosen as a window in which the latent is never active: "
                "`random`; `neighbour` (a nearby latent fires); `similar` (looks like its activating windows). "
                "`unread` windows are drawn without looking: the latent may be active in them.",
            ),
            _column(
                "source_latent",
                pa.uint32(),
                "The nearby latent that fires (kind `neighbour`); else null.",
                True,
            ),
            _column(
                "decile",
                pa.uint8(),
                "Decile of `max_activation` among the latent's windows of that split, 1 weakest to 10 strongest; "
                "null for windows that were not drawn as activating.",
                True,
            ),
            _column("context", pa.uint32(), "Context the window lies in."),
            _column("start", pa.uint16(), "Position of its first token in the context."),
            _column("tokens", _TOKENS, "Token ids of the window."),
            _column("activations", _F32_LIST, "Activation at each token, 0 where silent or masked."),
            _column("max_activation", pa.float32(), "Largest activation in the window."),
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
            _LATENT,
            _EXPLANATION,
            _column("explainer", pa.string(), "Name of the explainer in the run's configuration."),
            _column(
                "control",
                pa.string(),
                "Null for a real explanation; `shuffled` for the explanation of another latent.",
                True,
            ),
            _column("source_latent", pa.uint32(), "The latent a shuffled explanation was taken from.", True),
            _column("text", pa.string(), "The explanation; null unless status is `ok`.", True),
            _column(
                "status",
                pa.string(),
                "`ok`, `failed` (no answer, or not what was asked) or `undetermined` (nothing can be said).",
            ),
            _column("reason", pa.string(), "Why not `ok`; null if it is.", True),
            *_USAGE,
            _column("details", pa.string(), "JSON of what the explainer records beside the text."),
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
            _LATENT,
            _EXPLANATION,
            _column("scorer", pa.string(), "Name of the scorer in the run's configuration."),
            _column("example", pa.uint32(), "The judged window in `examples`."),
            _column(
                "kind",
                pa.string(),
                "Kind of the judged item: that of the window, `mismarked` (fuzzing), or `decoy` (a text of the scorer's own).",
            ),
            _column("decile", pa.uint8(), "Activation decile of the window; null if not activating.", True),
            _column(
                "request", pa.string(), "Hash of the request that judged it; null if none was sent.", True
            ),
            _column("position_in_request", pa.uint16(), "Its place among the items of that request.", True),
            _column("label", pa.bool_(), "The truth; null for scorers that predict activations.", True),
            _column("prediction", pa.bool_(), "The judge's decision; null if none.", True),
            _column("probability", pa.float32(), "The judge's probability of yes; null if none.", True),
            _column(
                "log_odds",
                pa.float32(),
                "Evidence for yes in nats: what AUROC is computed from; null if none.",
                True,
            ),
            _column(
                "predicted_activations",
                _F32_LIST,
                "Simulated activation at each token of the window; null except for simulation.",
                True,
            ),
            _column(
                "status",
                pa.string(),
                "`ok`, `unparsed` (the reply is not what was asked) or `error` (no reply).",
            ),
            _column("reason", pa.string(), "Why not `ok`; null if it is.", True),
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
            _LATENT,
            _EXPLANATION,
            _column("explainer", pa.string(), "Explainer of the explanation."),
            _column("control", pa.string(), "As in `explanations`.", True),
            _column("scorer", pa.string(), "Name of the scorer in the run's configuration."),
            _column("metric", pa.string(), "Which column is this scorer's headline number."),
            _column("value", pa.float32(), "The headline number; null if undefined.", True),
            _column("ci_low", pa.float32(), "Lower end of its 95% interval; null if undefined.", True),
            _column("ci_high", pa.float32(), "Upper end of its 95% interval; null if undefined.", True),
            _column("chance", pa.float32(), "What a judge that guesses would get.", True),
            _column(
                "status",
                pa.string(),
                "`ok`, `failed` (judged, but the number is undefined) or `unexplained` (nothing to judge).",
            ),
            _column("reason", pa.string(), "Why not `ok`; null if it is.", True),
            _column("n_examples", pa.uint32(), "Items sent to the judge."),
            _column(
                "coverage", pa.float32(), "Share of items with status `ok`; null if there were none.", True
            ),
            _column("tp", pa.uint32(), f"True positives {_N}; null where nothing is decided.", True),
            _column("fp", pa.uint32(), f"False positives {_N}; null likewise.", True),
            _column("tn", pa.uint32(), f"True negatives {_N}; null likewise.", True),
            _column("fn", pa.uint32(), f"False negatives {_N}; null likewise.", True),
            _column("n_unparsed", pa.uint32(), "Items whose reply could not be read."),
            _column("n_error", pa.uint32(), "Items without a reply."),
            _column("accuracy", pa.float32(), "(tp + tn) / decided; null if nothing was decided.", True),
            _column(
                "balanced_accuracy",
                pa.float32(),
                "Mean of sensitivity and specificity; null unless both classes were decided.",
                True,
            ),
            _column(
                "worst_case_accuracy",
                pa.float32(),
                "(tp + tn) / all items: every unparsed or failed item counted as wrong.",
                True,
            ),
            _column("f1", pa.float32(), "2 tp / (2 tp + fp + fn); null if that is 0 / 0.", True),
            _column(
                "auroc",
                pa.float32(),
                "Area under the ROC curve of `log_odds`; null without evidence or with one class.",
                True,
            ),
            _column(
                "sensitivity_by_decile",
                _F32_LIST,
                "Share of activating items called yes, for deciles 1 to 10; null where there are none.",
                True,
            ),
            _column(
                "specificity_by_kind", _BY_KIND, "Share of items called no, by kind; null likewise.", True
            ),
            _column(
                "ev_correlation",
                pa.float32(),
                "Simulation: Pearson correlation of simulated and true activations over all tokens read, pooled, "
                "uncalibrated; null if either is constant.",
                True,
            ),
            _column(
                "activation_scale",
                pa.uint8(),
                "Simulation: the largest number the judge may say, 10 or 9 (see the simulation page).",
                True,
            ),
            _column("n_tokens", pa.uint32(), "Simulation: tokens compared.", True),
            _column(
                "peer_metric",
                pa.string(),
                "Presets: name of the number the published tool would report; null for other scorers.",
                True,
            ),
            _column(
                "peer_value",
                pa.float32(),
                "Presets: that number, beside the corrected one in `value`; null where the tool has none.",
                True,
            ),
            *_USAGE,
            _column("details", pa.string(), "JSON of what the scorer records beside the numbers."),
        ]
    ),
)

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        VOCABULARY,
        CONTEXTS,
        ACTIVATIONS,
        RESERVOIR,
        LATENTS,
        EXAMPLES,
        EXPLANATIONS,
        JUDGEMENTS,
        SCORES,
    )
}
"""All datasets of a run directory, by name, in the order the stages write them."""


def empty_table(name: str) -> pa.Table:
    """A table of the named dataset with no rows."""
    return DATASETS[name].schema.empty_table()


def table_of(name: str, rows: list[dict[str, object]]) -> pa.Table:
    """Rows as a table of the named dataset; a missing nullable column is null.

    Raises `ValueError` for a column the schema does not have or a null it does not allow.
    """
    schema = DATASETS[name].schema
    names = set(schema.names)
    for row in rows:
        if not names.issuperset(row):
            raise ValueError(f"{name}: no such column: {sorted(set(row) - names)}")
    table = pa.Table.from_pylist(rows, schema=schema)
    for column in schema:
        if not column.nullable and table.column(column.name).null_count:
            raise ValueError(f"{name}.{column.name}: null in a column that allows none")
    return table
