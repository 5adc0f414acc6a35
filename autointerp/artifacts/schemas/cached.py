"""Datasets of the stage `cache`: the tokenised corpus, the activations and facts of every latent."""

from __future__ import annotations

import pyarrow as pa

from autointerp.artifacts.schemas.spec import F32_LIST, LATENT, TOKENS, DatasetSpec, column

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

VOCABULARY = DatasetSpec(
    name="vocabulary",
    row="one token of the subject's tokenizer",
    sorted_by=("token",),
    rows_per_group=65_536,
    schema=pa.schema(
        [
            column("token", pa.uint32(), "Token id."),
            column(
                "text",
                pa.string(),
                "Readable form: the text where the token is whole UTF-8, else its bytes as `\\xHH`.",
            ),
            column("bytes", pa.binary(), "Exact bytes of the token; null for special tokens.", True),
            column("special", pa.bool_(), "Whether the tokenizer calls it special (BOS, EOS, padding...)."),
            column("n_occurrences", pa.uint64(), "Unmasked positions of the cached corpus that hold it."),
            column("n_occurrences_train", pa.uint64(), "Of those, the ones in train documents."),
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
            column("context", pa.uint32(), "Index of the context, from 0."),
            column(
                "document",
                pa.uint64(),
                "Index of the document of its first token, in the order of the corpus. A context may hold "
                "several documents, always of one split.",
            ),
            column("split", pa.string(), "`train` or `test`, by hash of the documents' text."),
            column("tokens", TOKENS, "Token ids, BOS and separators included."),
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
            LATENT,
            column("context", pa.uint32(), "Context it was seen in."),
            column("position", pa.uint16(), "Position in that context, from 0."),
            column("activation", pa.float32(), "Activation of the latent, in the dictionary's own units."),
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
            LATENT,
            column("split", pa.string(), "`train` or `test`."),
            column("n_contexts", pa.uint64(), "Contexts in which it is active."),
            column("n_random", pa.uint64(), "Of these, contexts in the uniform sample."),
            column("n_kept", pa.uint64(), "Of these, contexts whose activations are in `activations`."),
            column(
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
            LATENT,
            column("n_active_tokens", pa.uint64(), "Unmasked positions at which it is active."),
            column("n_active_contexts", pa.uint64(), "Contexts in which it is active at least once."),
            column("density", pa.float64(), "`n_active_tokens` over all unmasked positions."),
            column("max_activation", pa.float32(), "Largest activation; null if dead.", True),
            column("mean_activation", pa.float32(), "Mean over active positions; null if dead.", True),
            column(
                "quantiles",
                F32_LIST,
                "Quantiles 0, 0.1, ..., 1 of its non-zero activations (11 values), exact, or with `[cache.reservoir]` "
                "within 1/128; null if dead.",
                True,
            ),
            column(
                "top_tokens",
                _TOP_TOKENS,
                "Tokens it is active on in the train documents (so that a label made from them can be judged on "
                "the test windows), by summed activation, largest first: `token`, `n_active` positions, `total` "
                "and `max` activation.",
            ),
            column(
                "top_logits",
                _LOGITS,
                "Tokens its decoder direction promotes most through the final norm's scale and the "
                "unembedding; null where the hook point does not write to the residual stream.",
                True,
            ),
            column("bottom_logits", _LOGITS, "Tokens it demotes most, lowest first; null likewise.", True),
            column(
                "neighbours",
                _NEIGHBOURS,
                "The `cache.n_neighbours` other latents whose decoder directions have the largest cosine with its "
                "own, largest first (in the residual stream where the hook point writes to it); null without a "
                "decoder, for a direction of zeros, and if none were asked.",
                True,
            ),
            column(
                "status",
                pa.string(),
                "`ok`, `dead` (never active), `rare` (active in fewer than `cache.rare_below_contexts` contexts of the train or of the test split) "
                "or `dense` (active on more than `cache.dense_above` of tokens).",
            ),
        ]
    ),
)
